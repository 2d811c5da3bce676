"""Options that codecs which send some of the values share: how many, and in how many bits."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mcc.core.config import option
from mcc.core.errors import UsageError

_RATIO = 0.01


@dataclass(frozen=True, kw_only=True)
class SparseOptions:
    """How many values are sent, and how.

    Raises:
        UsageError: a value is out of range, or k and ratio are both given.
    """

    k: int = option(0, "values sent; 0: as ratio says")
    ratio: float = option(_RATIO, "share of the values sent, where k is not given")
    values: int = option(16, "bits a value: 32, or 16 (the tensor's own type if of 16 bits, else bfloat16)")

    def __post_init__(self) -> None:
        if self.k < 0:
            raise UsageError(f"k = {self.k} must be at least 1")
        if self.k and self.ratio != _RATIO:
            raise UsageError(f"k = {self.k} and ratio = {self.ratio:g} say two things: give one")
        if not 0 < self.ratio <= 1:
            raise UsageError(f"ratio = {self.ratio:g} is no share between 0 and 1")
        if self.values not in (16, 32):
            raise UsageError(f"values = {self.values} is not 16 or 32")

    def kept(self, count: int) -> int:
        """Values sent of `count`: at least one, at most all.

        >>> SparseOptions(ratio=0.1).kept(25), SparseOptions(k=40).kept(25)
        (2, 25)
        """
        return min(count, self.k or max(1, round(self.ratio * count)))

    def dtype(self, own: torch.dtype) -> torch.dtype:
        """Of the values sent, of tensors of dtype `own`."""
        if self.values == 32:
            return torch.float32
        return own if own.itemsize == 2 else torch.bfloat16
