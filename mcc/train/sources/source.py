"""A source of batches. A batch is asked for by its first sample and its size: what was consumed says where a run is.

So the position in the data is one number, and neither another layout nor another batch size loses it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mcc.train.batch import Batch, share


class Source(ABC):
    """Samples in the order in which a run takes them.

    Attributes:
        rows: rows of tokens of a sample (its choices), each of `seq_length` tokens.
        epoch_samples: samples of one pass over the data; None: not known.
        distinct: how many samples there are that come again and again, and then have ids from 0; None: each is new.
    """

    rows: int = 1
    seq_length: int
    epoch_samples: int | None = None
    distinct: int | None = None

    @abstractmethod
    def __len__(self) -> int:
        """How many samples there are, in all epochs."""

    def kept_by(self, replicas: int) -> int | None:
        """How many of the `distinct` samples may come to one replica."""
        return self.distinct

    @abstractmethod
    def take(self, samples: range) -> Batch:
        """These samples, on the CPU."""

    def batch(self, first: int, count: int, replica: int = 0, replicas: int = 1) -> Batch:
        """A replica's share of the `count` samples from `first`.

        Raises:
            MccError: a sample cannot be used, for instance for a token that is not in the vocabulary.
        """
        return self.take(share(first, count, replica, replicas))


# (predictions float[M, P], labels[M]) of all M samples -> numbers by name.
Metrics = Callable[[NDArray[np.floating], NDArray[np.generic]], dict[str, float]]


@dataclass(frozen=True)
class Evaluation:
    """Samples that are looked at without training on them.

    Attributes:
        name: `heldout`, or what a task calls its files.
        source: they come from here; past `samples` it gives samples of weight 0, so that batches can be filled up.
        samples: how many.
        metrics: of the objective's predictions, in the order of samples; None for the loss alone.
    """

    name: str
    source: Source
    samples: int
    metrics: Metrics | None = None
