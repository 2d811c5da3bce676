"""Which values of a tensor share a scale: those of a token, a channel, a block, or all."""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor
from torch.nn.functional import pad

from mcc.train.compress.codec import as_matrix

# Scales travel as bfloat16: a gradient's range without float16's underflow. Raised by this before rounding, one is
# never below what it was, so that nothing is cut off.
HEADROOM = 1 + 1 / 250

Scale = Literal["token", "channel", "tensor", "block"]


class Groups:
    """The groups of tensors of one shape.

    Args:
        scale: a group is a `token` (what the last dim holds), a `channel` (one index of the last dim), the `tensor`, or
            a `block` of consecutive values.
        block: values a block.
        shape: of the tensors.

    Attributes:
        count: groups. size: values of each; the last block may have fewer.
        dim: of the matrix that `split` gives, the dim along which a group lies.
    """

    def __init__(self, scale: Scale, block: int, shape: tuple[int, ...]) -> None:
        self.shape, self.values = shape, math.prod(shape)
        width = shape[-1] if shape else 1
        counts = {
            "token": self.values // max(width, 1),
            "channel": width,
            "tensor": 1,
            "block": -(-self.values // block),
        }
        self.count = counts[scale]
        self.size = block if scale == "block" else self.values // max(self.count, 1)
        self.dim = 0 if scale == "channel" else 1
        self._short = -self.values % block if scale == "block" else 0

    def split(self, x: Tensor) -> Tensor:
        """x[shape], or flat, as a matrix of groups; the last block is filled up with zeros."""
        if self.dim == 0:
            return as_matrix(x.view(self.shape))
        flat = x.reshape(-1)
        return (pad(flat, (0, self._short)) if self._short else flat).view(self.count, -1)

    def join(self, matrix: Tensor) -> Tensor:
        """The inverse of `split`: x[shape]."""
        return matrix.reshape(-1)[: self.values].view(self.shape)

    def column(self, scales: Tensor) -> Tensor:
        """scales[count] as they stand beside the matrix of `split`."""
        return scales.view(1, -1) if self.dim == 0 else scales.view(-1, 1)

    def mean(self, matrix: Tensor) -> Tensor:
        """The mean of every group of such a matrix, as a column; what fills up the last block does not count."""
        found = matrix.mean(self.dim, keepdim=True)
        if self._short:
            block = matrix.shape[1]
            found[-1] *= block / (block - self._short)
        return found
