"""Sample indices built once and kept beside the data: `PREFIX.samples/` holds a folder for each setting.

They say the order of documents, where each sample starts and the order of samples (see `mcc.data.samples`). A folder
is taken when it is of these very token files: it knows the hash of their index.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mcc.core.config import option
from mcc.core.errors import MccError, UsageError
from mcc.core.events import SILENT, Reporter
from mcc.core.files import atomic_path
from mcc.data.indexed import IndexedDataset, index_path
from mcc.data.samples import GPTSamples, Indices, SampleKey, build_indices, count_epochs, split_documents

_VERSION = 1
_ARRAYS = ("doc_idx", "sample_idx", "shuffle_idx")
_PARTS = ("train", "valid", "test")
_HASH_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class IndexConfig:
    """The samples of a training run; the names are the run's own.

    Raises:
        UsageError: a number is not positive, or it is not said how many samples there are.
    """

    seq_length: int = option(128, "tokens of a sample")
    train_iters: int | None = option(None, "training steps")
    eval_iters: int = option(10, "steps of a held-out evaluation")
    global_batch_size: int = option(16, "samples of a step")
    epochs: int | None = option(None, "passes over the training documents, in place of train_iters")
    seed: int = option(1234, "of the order")
    split: str = option("949,50,1", "weights of training, validation and test documents")
    all_documents: bool = option(False, "all documents are training documents: no split")

    def __post_init__(self) -> None:
        if (self.train_iters is None) == (self.epochs is None):
            raise UsageError("how many samples?", "--train-iters N --global-batch-size B, or --epochs E")
        for name in ("seq_length", "train_iters", "global_batch_size", "epochs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} = {value} must be at least 1")
        if self.eval_iters < 0:
            raise UsageError(f"eval_iters = {self.eval_iters} must not be negative")


@dataclass(frozen=True, kw_only=True)
class IndexedPart:
    """The samples of one part of the documents."""

    part: str
    documents: int
    tokens: int
    epochs: int
    samples: int
    path: str


@dataclass(frozen=True, kw_only=True)
class IndexReport:
    """What was built."""

    prefix: str
    parts: tuple[IndexedPart, ...]
    seconds: float


def index(prefix: str | Path, config: IndexConfig, reporter: Reporter = SILENT) -> IndexReport:
    """Build the sample indices of a run and keep them where the run finds them.

    Raises:
        MccError: the token files are damaged, or there are no documents or tokens for a part.
    """
    started = time.perf_counter()
    data = IndexedDataset(prefix)
    data.verify()
    everything = range(len(data))
    split = [everything] if config.all_documents else split_documents(len(data), config.split)
    built = []
    for name, documents in zip(_PARTS, split, strict=False):
        tokens = int(data.sizes[documents.start : documents.stop].sum(dtype=np.int64))
        if name == "train":
            wanted = (
                config.train_iters * config.global_batch_size
                if config.train_iters is not None
                else ((config.epochs or 1) * tokens - 1) // config.seq_length
            )
        else:
            wanted = config.eval_iters * config.global_batch_size if name == "valid" else 0
        if name != "train" and (not wanted or not len(documents)):
            continue
        if wanted < 1:
            raise MccError(f"{data.prefix}: {tokens} tokens are too few for one sample", "a smaller --seq-length")
        key = SampleKey(documents.start, documents.stop, config.seq_length, wanted, config.seed)
        with reporter.task(f"index: {name}"):
            indices = build_indices(data, np.arange(documents.start, documents.stop, dtype=np.int32), key)
            path = save(data, key, indices)
        built.append(
            IndexedPart(
                part=name,
                documents=len(documents),
                tokens=tokens,
                epochs=count_epochs(tokens, config.seq_length, wanted).count,
                samples=len(indices.shuffle_idx),
                path=str(path),
            )
        )
    return IndexReport(prefix=str(data.prefix), parts=tuple(built), seconds=round(time.perf_counter() - started, 3))


def folder_of(prefix: Path, key: SampleKey) -> Path:
    """Where the indices of a setting are kept."""
    name = f"{key.start}-{key.stop}d_{key.seq_length}l_{key.num_samples}n_{key.seed}s"
    return Path(f"{prefix}.samples") / name


def save(data: IndexedDataset, key: SampleKey, indices: Indices) -> Path:
    """Keep indices beside the data; the folder appears when it is whole."""
    folder = folder_of(data.prefix, key)
    with atomic_path(folder) as temporary:
        temporary.mkdir(parents=True)
        for name in _ARRAYS:
            np.save(temporary / f"{name}.npy", getattr(indices, name))
        (temporary / "key.json").write_text(json.dumps(_stamp(data, key)), encoding="utf-8")
    return folder


def load(data: IndexedDataset, key: SampleKey) -> Indices | None:
    """The indices of a setting, mapped; None when none are kept for these very files."""
    folder = folder_of(data.prefix, key)
    try:
        stamp = json.loads((folder / "key.json").read_text(encoding="utf-8"))
        if stamp != _stamp(data, key):
            return None
        arrays = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS]
    except (OSError, ValueError):
        return None
    return Indices(*arrays)


def _stamp(data: IndexedDataset, key: SampleKey) -> dict[str, Any]:
    digest = hashlib.blake2b(digest_size=16)
    with index_path(data.prefix).open("rb") as file:
        while piece := file.read(_HASH_BYTES):
            digest.update(piece)
    return {"version": _VERSION, "index": digest.hexdigest(), **asdict(key)}


def cached_samples(data: IndexedDataset, documents: range, seq_length: int, num_samples: int, seed: int) -> GPTSamples:
    """`GPTSamples` from kept indices, or built anew when there are none."""
    key = SampleKey(documents.start, documents.stop, seq_length, num_samples, seed)
    kept = load(data, key) if folder_of(data.prefix, key).is_dir() else None
    return GPTSamples(data, documents, seq_length, num_samples, seed, indices=kept)
