"""Batches of token files: runs of tokens for causal models, masked pairs of sentences for BERT."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mcc.core.errors import MccError
from mcc.data.training.bert_samples import BertSample
from mcc.data.training.blends import Samples
from mcc.data.training.fixed import FixedOrder
from mcc.train.batch import Batch
from mcc.train.sources.source import Source


class CausalTokens(Source):
    """Samples of T+1 tokens, read as T tokens and the next of each.

    Args:
        samples: int64[T+1] each.
        seq_length: T.
        vocab_size: tokens below this are in the vocabulary.
        tokens: of one pass over the data; None: not known.
    """

    def __init__(
        self, samples: Samples[NDArray[np.int64]], seq_length: int, vocab_size: int, tokens: int | None = None
    ) -> None:
        self.samples, self.seq_length, self.vocab_size = samples, seq_length, vocab_size
        self.epoch_samples = None if tokens is None else max(1, (tokens - 1) // seq_length)

    def __len__(self) -> int:
        return len(self.samples)

    def take(self, samples: range) -> Batch:
        return self.numbered(samples)

    def numbered(self, samples: Sequence[int]) -> Batch:
        """The samples of these numbers."""
        rows = np.stack([self.samples[i] for i in samples])
        _check(rows, self.vocab_size, samples)
        tokens = torch.from_numpy(rows)
        targets = tokens[:, 1:].contiguous()
        return {
            "tokens": tokens[:, :-1].contiguous(),
            "targets": targets,
            "weights": torch.ones(targets.shape, dtype=torch.float32),
        }


class FixedTokens(Source):
    """Epochs without end of the same windows of T+1 tokens.

    Args:
        windows: int64[T+1] each.
        order: of all epochs.
        samples: how many the run takes.
        seq_length: T.
        vocab_size: tokens below this are in the vocabulary.
        steady: whether every step takes a batch of the order.
    """

    def __init__(
        self,
        windows: Samples[NDArray[np.int64]],
        order: FixedOrder,
        samples: int,
        seq_length: int,
        vocab_size: int,
        steady: bool = True,
    ) -> None:
        self.steady = steady
        self._windows, self.order, self.samples = CausalTokens(windows, seq_length, vocab_size), order, samples
        self.seq_length = seq_length
        self.epoch_samples, self.distinct = order.epoch, order.epoch

    def __len__(self) -> int:
        return self.samples

    def kept_by(self, replicas: int) -> int | None:
        # A step of another size, in a ramp-up, deals the places of a batch otherwise.
        return self.order.epoch // replicas if self.steady else self.order.epoch

    def take(self, samples: range) -> Batch:
        numbers = [self.order.window(i) for i in samples]
        return self._windows.numbered(numbers) | {"ids": torch.tensor(numbers)}


class MaskedTokens(Source):
    """BERT's samples."""

    def __init__(self, samples: Samples[BertSample], seq_length: int, vocab_size: int) -> None:
        self.samples, self.seq_length, self.vocab_size = samples, seq_length, vocab_size

    def __len__(self) -> int:
        return len(self.samples)

    def take(self, samples: range) -> Batch:
        found = [self.samples[i] for i in samples]
        tokens = np.stack([sample.tokens for sample in found])
        targets = np.stack([sample.targets for sample in found])
        _check(np.maximum(tokens, targets), self.vocab_size, samples)
        arrays: dict[str, NDArray[Any]] = {
            "tokens": tokens,
            "targets": targets,
            "weights": np.stack([sample.weights for sample in found]),
            "token_types": np.stack([sample.token_types for sample in found]),
            "padding": np.stack([sample.padding for sample in found]),
            "labels": np.array([sample.label for sample in found], dtype=np.int64),
            "label_weights": np.ones(len(found), dtype=np.float32),
        }
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _check(rows: NDArray[np.int64], vocab_size: int, samples: Sequence[int]) -> None:
    largest = int(rows.max())
    if largest >= vocab_size:
        raise MccError(
            f"sample {samples[0]} or one of the {len(samples) - 1} with it: the data has token {largest}, "
            f"but vocab_size is {vocab_size}",
            "the data was made with another tokenizer",
        )
