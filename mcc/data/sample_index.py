"""Sample indices built ahead of a run and kept beside the data: `PREFIX.samples/` holds a folder for each setting.

They say the order of documents, where each sample starts and the order of samples (`mcc.data.samples`,
`mcc.data.training.sentence_pairs`), and which file of a blend each sample is of. A folder is taken when it is of these
very token files: it knows the hash of their index.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mcc.core.config import option
from mcc.core.errors import MccError, UsageError
from mcc.core.events import SILENT, Reporter
from mcc.data.indexed import IndexedDataset
from mcc.data.samples import GPTSamples, count_epochs, split_documents
from mcc.data.training.batch_size import BatchSizes, Ramp
from mcc.data.training.blends import Blend
from mcc.data.training.config import MaskConfig
from mcc.data.training.open import Opened, Wanted, open_bert, open_fixed, open_gpt


@dataclass(frozen=True, kw_only=True)
class IndexConfig:
    """The samples of a training run; the names are the run's own.

    Raises:
        UsageError: a number is not positive, or it is not said how many samples there are.
    """

    kind: Literal["gpt", "bert"] = option("gpt", "tokens end to end (gpt), or runs of sentences (bert)")
    samples: Literal["running", "fixed"] = option(
        "running", "documents shuffled and cut anew in every epoch, or the same windows in every epoch"
    )
    seq_length: int = option(128, "tokens of a sample")
    train_iters: int | None = option(None, "training steps")
    train_samples: int | None = option(None, "samples to train on, in place of train_iters")
    eval_iters: int = option(10, "steps of a held-out evaluation")
    global_batch_size: int = option(16, "samples of a step")
    rampup_batch_size: Ramp | None = option(None, "start, increment and samples of a growing batch")
    epochs: int | None = option(None, "passes over the training documents, in place of train_iters")
    valid_data_path: str | None = option(None, "token files of the held-out evaluation: no split")
    seed: int = option(1234, "of the order")
    split: str = option("949,50,1", "weights of training, validation and test documents")
    all_documents: bool = option(False, "all documents are training documents: no split")
    data_cache_path: str | None = option(None, "folder for the indices [beside each token file]")
    masking: MaskConfig = field(default_factory=MaskConfig)

    def __post_init__(self) -> None:
        counts = [self.train_iters, self.train_samples, self.epochs].count(None)
        if counts != 2 and (counts < 2 or not self.fixed):  # fixed windows are the same however often they come
            hint = "--train-iters N --global-batch-size B, or --train-samples S --global-batch-size B, or --epochs E"
            raise UsageError("how many samples?", hint)
        for name in ("seq_length", "train_iters", "train_samples", "global_batch_size", "epochs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} = {value} must be at least 1")
        if self.eval_iters < 0:
            raise UsageError(f"eval_iters = {self.eval_iters} must not be negative")
        BatchSizes(self.global_batch_size, self.rampup_batch_size)
        for name in ("all_documents", "valid_data_path"):
            if getattr(self, name) and self.split != type(self).split:
                raise UsageError(f"{name} and a split exclude each other", "leave one of them out")
        if self.fixed and self.epochs is not None:
            raise UsageError("--samples fixed has the same windows in every epoch, however many", "leave it out")
        if self.kind == "bert" and self.fixed:
            raise UsageError("--samples fixed is for tokens end to end; BERT's samples are masked anew", "leave it out")
        if self.kind == "bert" and self.epochs is not None:
            raise UsageError("--epochs counts samples of tokens end to end", "--train-iters N --global-batch-size B")

    @property
    def fixed(self) -> bool:
        """Whether every epoch has the same windows."""
        return self.samples == "fixed"

    @property
    def num_samples(self) -> int | None:
        """Training samples of the run, whole steps of them; None where epochs are counted."""
        sizes, steps = BatchSizes(self.global_batch_size, self.rampup_batch_size), self.train_iters
        if self.train_samples is not None:
            steps = sizes.steps(self.train_samples)
        return None if steps is None else sizes.at(steps).samples


@dataclass(frozen=True, kw_only=True)
class IndexedPart:
    """The samples of one part of the documents of one file, or of a blend of several.

    `documents`, `tokens` and `epochs` are None for a blend, and `epochs` for sentences and fixed windows.
    """

    prefix: str
    part: str
    documents: int | None
    tokens: int | None
    epochs: int | None
    samples: int
    path: str


@dataclass(frozen=True, kw_only=True)
class IndexReport:
    """What was built."""

    prefix: str
    parts: tuple[IndexedPart, ...]
    seconds: float


def index(data_path: str | Path, config: IndexConfig, reporter: Reporter = SILENT) -> IndexReport:
    """Build the sample indices of a run and keep them where the run finds them.

    Args:
        data_path: a prefix, or a blend: `0.3 A 0.7 B`.

    Raises:
        MccError: the token files are damaged, there are no documents or tokens for a part, or nothing can be written.
    """
    started = time.perf_counter()
    blend = Blend.parse(str(data_path))
    held_out = Blend.parse(config.valid_data_path) if config.valid_data_path else None
    whole = config.all_documents or held_out is not None
    jobs = [("train", "all" if whole else "train", blend)]
    if held_out is not None or not whole:
        jobs.append(("valid", "all" if whole else "valid", held_out or blend))
    built: list[IndexedPart] = []
    for name, part, blend_of_part in jobs:
        datasets = [IndexedDataset(prefix) for prefix in blend_of_part.prefixes]
        for data in datasets:
            data.verify()
        count = _count(datasets, config, name, part)
        if not count:
            continue
        wanted = Wanted(
            blend=blend_of_part,
            part=part,
            split=config.split,
            seq_length=config.seq_length,
            num_samples=count,
            seed=config.seed,
            cache=config.data_cache_path,
        )
        opened: Opened[Any] | None
        if config.kind == "bert":
            opened = open_bert(wanted, config.masking, None, reporter)
        elif config.fixed and name == "train":
            opened = open_fixed(wanted, reporter)
        else:
            opened = open_gpt(wanted, reporter)
        if opened is not None:
            built += _described(opened, name, config, blend_of_part)
    return IndexReport(prefix=str(blend), parts=tuple(built), seconds=round(time.perf_counter() - started, 3))


def _count(datasets: Sequence[IndexedDataset], config: IndexConfig, name: str, part: str) -> int:
    """Samples for training (`train`) or the evaluation (`valid`), as `mcc train` counts them."""
    if name == "valid":
        return config.eval_iters * config.global_batch_size
    if config.fixed:
        return 1  # all that there are
    if config.num_samples is not None:
        return config.num_samples
    if len(datasets) > 1:
        raise UsageError("the files of a blend have epochs of their own", "--train-iters N --global-batch-size B")
    (data,) = datasets
    documents = range(len(data)) if part == "all" else split_documents(len(data), config.split)[0]
    tokens = _tokens(data, documents)
    count = ((config.epochs or 1) * tokens - 1) // config.seq_length
    if count < 1:
        raise MccError(f"{data.prefix}: {tokens} tokens are too few for one sample", "a smaller --seq-length")
    return count


def _tokens(data: IndexedDataset, documents: range) -> int:
    return int(data.sizes[documents.start : documents.stop].sum(dtype=np.int64))


def _described(opened: Opened[Any], name: str, config: IndexConfig, blend: Blend) -> list[IndexedPart]:
    found = []
    for file in opened.files:
        epochs = None
        if isinstance(file.samples, GPTSamples) and not (config.fixed and name == "train"):
            epochs = count_epochs(file.tokens, config.seq_length, file.wanted).count
        found.append(
            IndexedPart(
                prefix=str(file.prefix),
                part=name,
                documents=file.documents,
                tokens=file.tokens,
                epochs=epochs,
                samples=len(file.samples),
                path=_written(file.folder, blend),
            )
        )
    if len(found) > 1:
        found.append(
            IndexedPart(
                prefix=str(blend),
                part=name,
                documents=None,
                tokens=None,
                epochs=None,
                samples=len(opened.samples),
                path=_written(opened.folder, blend),
            )
        )
    return found


def _written(folder: Path | None, blend: Blend) -> str:
    if folder is None:
        raise MccError(f"{blend}: indices cannot be written", "--data-cache-path FOLDER")
    return str(folder)
