"""The samples of a run: from one or several token files, for training or for a held-out evaluation.

Their indices are built by the first process that asks and kept beside the token files (`PREFIX.samples/`), or in a
folder of the user's; every other process maps them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from mcc.core.errors import MccError, UsageError
from mcc.core.events import SILENT, Reporter
from mcc.data.indexed import IndexedDataset, index_path
from mcc.data.samples import GPTSamples, Indices, SampleKey, build_indices, split_documents
from mcc.data.training.bert_samples import BertSample, BertSamples
from mcc.data.training.blends import Blend, Blended, Samples, build_blend
from mcc.data.training.config import MaskConfig
from mcc.data.training.fixed import WindowKey, build_windows
from mcc.data.training.kept import Arrays, digest, kept
from mcc.data.training.masking import Vocabulary
from mcc.data.training.sentence_pairs import PairKey, build_pairs

_VERSION = 1
PARTS = ("train", "valid", "test")
Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which samples are wanted.

    Args:
        blend: the token files.
        part: `train`, `valid` or `test` by `split`; `all` documents.
        split: the parts' weights.
        seq_length: tokens of a sample.
        num_samples: how many.
        seed: of their order.
        cache: folder for indices; None: beside each token file.
    """

    blend: Blend
    part: str = "train"
    split: str = "949,50,1"
    seq_length: int
    num_samples: int
    seed: int = 1234
    cache: str | None = None

    def __post_init__(self) -> None:
        if self.seq_length < 1 or self.num_samples < 1:
            raise UsageError(f"seq_length = {self.seq_length} and num_samples = {self.num_samples} must be at least 1")


@dataclass(frozen=True)
class OpenedFile(Generic[Item]):
    """The samples of one token file.

    Attributes:
        wanted: how many samples the run takes of it, of those that there are.
        documents, tokens: how many they are from.
        folder: where the indices are kept; None where they could not be.
    """

    prefix: Path
    wanted: int
    documents: int
    tokens: int
    samples: Samples[Item]
    folder: Path | None


@dataclass(frozen=True)
class Opened(Generic[Item]):
    """The samples of a run, those of each file, and where the indices of the blend are kept, if it is one."""

    samples: Samples[Item]
    files: tuple[OpenedFile[Item], ...]
    folder: Path | None = None


def open_gpt(wanted: Wanted, reporter: Reporter = SILENT) -> Opened[NDArray[np.int64]] | None:
    """Samples of L+1 tokens; None when the part has no documents (never for `train` and `all`).

    Raises:
        MccError: a file is missing or damaged, or there are no documents or tokens.
    """

    def one(data: IndexedDataset, documents: range, count: int) -> tuple[GPTSamples, Path | None]:
        key = SampleKey(documents.start, documents.stop, wanted.seq_length, count, wanted.seed)
        folder = gpt_folder(data.prefix, key, wanted.cache)

        def build() -> Arrays:
            found = build_indices(data, np.arange(documents.start, documents.stop, dtype=np.int32), key)
            return {"doc_idx": found.doc_idx, "sample_idx": found.sample_idx, "shuffle_idx": found.shuffle_idx}

        arrays, written = kept(folder, _stamp(data, key), build, reporter)
        samples = GPTSamples(data, documents, wanted.seq_length, count, wanted.seed, indices=Indices(**arrays))
        return samples, folder if written else None

    # As in Megatron-LM the sequences are counted: a document without tokens has none.
    return _opened(wanted, _files(wanted, len), one, lambda data, place: place, reporter)


def open_fixed(wanted: Wanted, reporter: Reporter = SILENT) -> Opened[NDArray[np.int64]] | None:
    """The windows of L+1 tokens that are the same in every epoch, in order of the file; `num_samples` says nothing.

    Raises:
        UsageError: there are several files. MccError: as for `open_gpt`; or there is no window.
    """
    if len(wanted.blend.prefixes) > 1:
        raise UsageError(
            f"--samples fixed takes every window once an epoch, so {len(wanted.blend.prefixes)} files with weights "
            "cannot be mixed",
            "mcc data merge makes one of them",
        )

    def one(data: IndexedDataset, documents: range, count: int) -> tuple[GPTSamples, Path | None]:
        key = WindowKey(documents.start, documents.stop, wanted.seq_length)
        folder = fixed_folder(data.prefix, key, wanted.cache)

        def build() -> Arrays:
            found = build_windows(data, documents, wanted.seq_length)
            return {"doc_idx": found.doc_idx, "sample_idx": found.sample_idx, "shuffle_idx": found.shuffle_idx}

        arrays, written = kept(folder, _stamp(data, key), build, reporter)
        samples = GPTSamples(data, documents, wanted.seq_length, 1, wanted.seed, indices=Indices(**arrays))
        return samples, folder if written else None

    return _opened(wanted, _files(wanted, len), one, lambda data, place: place, reporter)


def open_bert(
    wanted: Wanted, masking: MaskConfig, vocabulary: Vocabulary | None, reporter: Reporter = SILENT
) -> Opened[BertSample] | None:
    """BERT's samples; None when the part has no documents (never for `train` and `all`).

    Args:
        vocabulary: None to build indices alone: the samples then cannot be read.

    Raises:
        MccError: as for `open_gpt`; or no document has enough sentences.
    """

    def one(data: IndexedDataset, documents: range, count: int) -> tuple[Any, Path | None]:
        key = PairKey(
            documents.start,
            documents.stop,
            wanted.seq_length,
            count,
            wanted.seed,
            masking.short_seq_prob,
            masking.min_sentences,
        )
        folder = bert_folder(data.prefix, key, wanted.cache)
        arrays, written = kept(folder, _stamp(data, key), lambda: {"pairs": build_pairs(data, key)}, reporter)
        where = folder if written else None
        if vocabulary is None:
            return arrays["pairs"], where
        return BertSamples(data, key, vocabulary, masking, arrays["pairs"]), where

    files = _files(wanted, lambda data: data.documents)
    return _opened(wanted, files, one, lambda data, place: int(data.doc_idx[place]), reporter)


def gpt_folder(prefix: Path, key: SampleKey, cache: str | None = None) -> Path:
    """Where GPT's indices of a setting are kept."""
    return _root(prefix, cache) / f"{key.start}-{key.stop}d_{key.seq_length}l_{key.num_samples}n_{key.seed}s"


def bert_folder(prefix: Path, key: PairKey, cache: str | None = None) -> Path:
    """Where BERT's indices of a setting are kept."""
    name = f"bert_{key.start}-{key.stop}d_{key.seq_length}l_{key.num_samples}n_{key.seed}s"
    return _root(prefix, cache) / f"{name}_{key.short_seq_prob:g}p_{key.min_sentences}m"


def fixed_folder(prefix: Path, key: WindowKey, cache: str | None = None) -> Path:
    """Where the indices of fixed windows are kept."""
    return _root(prefix, cache) / f"fixed_{key.start}-{key.stop}d_{key.seq_length}l"


def _root(prefix: Path, cache: str | None) -> Path:
    if cache is None:
        return Path(f"{prefix}.samples")
    # Files of the same name in several folders share a cache.
    place = hashlib.blake2b(str(prefix.resolve()).encode(), digest_size=4).hexdigest()
    return Path(cache) / f"{prefix.name}-{place}.samples"


def _stamp(data: IndexedDataset, key: SampleKey | PairKey | WindowKey) -> dict[str, Any]:
    return {"version": _VERSION, "index": digest(index_path(data.prefix)), **asdict(key)}


@dataclass(frozen=True)
class _File:
    data: IndexedDataset
    weight: float
    documents: range


def _files(wanted: Wanted, count: Callable[[IndexedDataset], int]) -> list[_File]:
    """The files that have documents in the part."""
    found = []
    for prefix, weight in zip(wanted.blend.prefixes, wanted.blend.weights, strict=True):
        data = IndexedDataset(prefix)
        documents = range(count(data))
        if wanted.part != "all":
            documents = split_documents(count(data), wanted.split)[PARTS.index(wanted.part)]
        if len(documents):
            found.append(_File(data, weight, documents))
        elif wanted.part in ("train", "all"):
            raise MccError(
                f"{data.prefix}: split {wanted.split} leaves 0 documents for training", "give this split more weight"
            )
    return found


def _opened(
    wanted: Wanted,
    files: Sequence[_File],
    one: Callable[[IndexedDataset, range, int], tuple[Any, Path | None]],
    first_sequence: Callable[[IndexedDataset, int], int],
    reporter: Reporter,
) -> Opened[Any] | None:
    """`one` gives the samples of a file, `first_sequence` where a document begins."""
    if not files:
        return None
    weights = [file.weight for file in files]
    if len(files) < len(wanted.blend.weights):
        weights = [weight / sum(weights) for weight in weights]
    blend = Blend(tuple(str(file.data.prefix) for file in files), tuple(weights))
    found: list[OpenedFile[Any]] = []
    for file, count in zip(files, blend.shares(wanted.num_samples), strict=True):
        data, documents = file.data, file.documents
        samples, kept_in = one(data, documents, count)
        sequences = slice(first_sequence(data, documents.start), first_sequence(data, documents.stop))
        tokens = int(data.sizes[sequences].sum(dtype=np.int64))
        found.append(OpenedFile(data.prefix, count, len(documents), tokens, samples, kept_in))
    if len(found) == 1:
        return Opened(found[0].samples, tuple(found))
    stamp = {"version": _VERSION, "weights": weights, "num_samples": wanted.num_samples}
    name = hashlib.blake2b(repr(weights).encode(), digest_size=4).hexdigest()
    folder = _root(files[0].data.prefix, wanted.cache) / f"blend_{name}_{wanted.num_samples}n"

    def build() -> Arrays:
        chosen, numbers = build_blend(weights, wanted.num_samples)
        return {"files": chosen, "numbers": numbers}

    arrays, written = kept(folder, stamp, build, reporter)
    mixed: Blended[Any] = Blended([file.samples for file in found], arrays["files"], arrays["numbers"])
    return Opened(mixed, tuple(found), folder if written else None)
