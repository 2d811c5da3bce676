"""The batches of a run. Which samples a step takes depends on the step alone, never on the layout."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from mcc.core.errors import MccError
from mcc.data.indexed import IndexedDataset
from mcc.data.sample_index import cached_samples
from mcc.data.samples import GPTSamples, split_documents
from mcc.train.config import TrainConfig


class Batches:
    """Global batches of samples of T+1 tokens, cut to this replica's share.

    Args:
        samples: the samples, in the order of training.
        global_batch: samples of a step over all replicas.
        replica, replicas: this data-parallel rank, and how many.
        vocab_size: tokens below this are in the vocabulary.
    """

    def __init__(self, samples: GPTSamples, global_batch: int, replica: int, replicas: int, vocab_size: int) -> None:
        self.samples, self.global_batch, self.vocab_size = samples, global_batch, vocab_size
        share = global_batch // replicas
        self.mine = range(replica * share, (replica + 1) * share)

    def __len__(self) -> int:
        return len(self.samples) // self.global_batch

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        """(tokens[N, T], targets[N, T]) of this replica in step `step`.

        Raises:
            MccError: a token is not in the vocabulary.
        """
        first = step * self.global_batch
        rows = torch.from_numpy(np.stack([self.samples[first + i] for i in self.mine]))
        if int(rows.max()) >= self.vocab_size:
            raise MccError(
                f"step {step + 1}: the data has token {int(rows.max())}, but vocab_size is {self.vocab_size}",
                "the data was made with another tokenizer",
            )
        return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return (self[step] for step in range(len(self)))


def training_batches(config: TrainConfig, replica: int, replicas: int) -> Batches:
    """The batches of every training step of the run.

    Raises:
        MccError: the data is missing, foreign or empty.
    """
    dataset, documents = _documents(config, held_out=False)
    count = config.run.train_iters * config.run.global_batch_size
    return _batches(config, dataset, documents, count, replica, replicas)


def held_out_batches(config: TrainConfig, replica: int, replicas: int) -> Batches | None:
    """The batches of one held-out evaluation, or None when the run has none."""
    if not config.run.eval_iters:
        return None
    dataset, documents = _documents(config, held_out=True)
    if not len(documents):
        return None
    count = config.run.eval_iters * config.run.global_batch_size
    return _batches(config, dataset, documents, count, replica, replicas)


def _documents(config: TrainConfig, held_out: bool) -> tuple[IndexedDataset, range]:
    if not config.data.data_path:
        raise MccError("no training data", "--data-path PREFIX, as `mcc data preprocess` wrote it")
    if config.data.valid_data_path:
        dataset = IndexedDataset(config.data.valid_data_path if held_out else config.data.data_path)
        return dataset, range(len(dataset))
    dataset = IndexedDataset(config.data.data_path)
    # As in Megatron-LM the sequences are counted: a document without tokens has none.
    parts = split_documents(len(dataset), config.data.split)
    return dataset, parts[1 if held_out else 0]


def _batches(
    config: TrainConfig, dataset: IndexedDataset, documents: range, count: int, replica: int, replicas: int
) -> Batches:
    samples = cached_samples(dataset, documents, config.model.seq_length, count, config.run.seed)
    return Batches(samples, config.run.global_batch_size, replica, replicas, config.model.vocab_size)
