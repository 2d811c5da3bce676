"""Batches of a task's examples, in another order every epoch; or in their own order to be scored."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mcc.core.errors import MccError
from mcc.train.batch import Batch
from mcc.train.finetune.encode import Encoder
from mcc.train.finetune.files import Examples
from mcc.train.sources.source import Source


class TrainingExamples(Source):
    """Epochs without end. Epoch e is a permutation from seed + e: sample i is the same in every layout.

    Args:
        examples: the task's.
        encoder: makes rows of tokens.
        samples: how many the run takes.
        seed: of the order.
    """

    def __init__(self, examples: Examples, encoder: Encoder, samples: int, seed: int) -> None:
        self.examples, self.encoder, self.samples, self.seed = examples, encoder, samples, seed
        self.rows, self.seq_length = examples.task.rows, encoder.seq_length
        self.epoch_samples = self.distinct = len(examples)
        self._orders: dict[int, NDArray[np.int64]] = {}

    def __len__(self) -> int:
        return self.samples

    def take(self, samples: range) -> Batch:
        numbers = [self._example(i) for i in samples]
        return _batch(self.examples, self.encoder, numbers, len(samples)) | {"ids": torch.tensor(numbers)}

    def _example(self, i: int) -> int:
        epoch, place = divmod(i, len(self.examples))
        if epoch not in self._orders:
            # A batch may begin in one epoch and end in the next.
            self._orders = {e: order for e, order in self._orders.items() if e == epoch - 1}
            generator = np.random.RandomState((self.seed + epoch) % (1 << 32))
            self._orders[epoch] = generator.permutation(len(self.examples))
        return int(self._orders[epoch][place])


class ScoredExamples(Source):
    """Every example once, in order; past the last one examples that count nothing."""

    def __init__(self, examples: Examples, encoder: Encoder) -> None:
        self.examples, self.encoder = examples, encoder
        self.rows, self.seq_length = examples.task.rows, encoder.seq_length

    def __len__(self) -> int:
        return len(self.examples)

    def take(self, samples: range) -> Batch:
        total = len(self.examples)
        counting = max(0, min(samples.stop, total) - samples.start)
        return _batch(self.examples, self.encoder, [min(i, total - 1) for i in samples], counting)


def _batch(examples: Examples, encoder: Encoder, numbers: list[int], counting: int) -> Batch:
    """Examples as a batch; the first `counting` have weight 1."""
    found = [examples[i] for i in numbers]
    arrays: dict[str, NDArray[Any]] = encoder(found)
    dtype = np.int64 if examples.task.labels else np.float32
    arrays["labels"] = np.array([example.label for example in found], dtype=dtype)
    arrays["label_weights"] = (np.arange(len(found)) < counting).astype(np.float32)
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def check_vocabulary(encoder: Encoder, vocab_size: int) -> None:
    """Refuse a tokenizer whose tokens the model does not have.

    Raises:
        MccError: it has more.
    """
    if encoder.vocab_size > vocab_size:
        raise MccError(
            f"the tokenizer has {encoder.vocab_size} tokens, the model {vocab_size}", "give the model's own --tokenizer"
        )
