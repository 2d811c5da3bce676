"""The tensor-parallel axis as a model sees it. This one has a single rank; `mcc.train.parallel.tensor` has the rest."""

from __future__ import annotations

from torch import Tensor


class TensorAxis:
    """Where a tensor-parallel layer enters and leaves its sharded region (Megatron-LM's f and g, arXiv 1909.08053).

    `key` names the place in the model; each place that compresses keeps its own codec state under it.
    """

    size: int = 1
    rank: int = 0

    def enter(self, x: Tensor, key: str) -> Tensor:
        """f: the identity forward, the sum over ranks backward. x is replicated."""
        return x

    def leave(self, x: Tensor, key: str) -> Tensor:
        """g: the sum over ranks forward, the identity backward. x is this rank's partial sum."""
        return x

    def sum_vocab(self, x: Tensor) -> Tensor:
        """g for the vocabulary-parallel embedding: never compressed (most of it is zeros)."""
        return x

    def enter_vocab(self, x: Tensor) -> Tensor:
        """f for the vocabulary-parallel output layer: never compressed."""
        return x

    def sum_(self, x: Tensor) -> Tensor:
        """The sum over ranks, in place, outside autograd (cross-entropy's statistics)."""
        return x

    def max_(self, x: Tensor) -> Tensor:
        """The maximum over ranks, in place, outside autograd."""
        return x
