"""How `delta` keeps a sample: its values as a row of bytes, in 32, 16 or fewer bits each."""

# S samples   W bytes of a row

from __future__ import annotations

import math

import torch
from torch import Tensor

from mcc.train.compress.codec import Context, TensorSpec, nbytes, pack, unpack
from mcc.train.compress.codecs.quantize import Quantize, QuantizeOptions

FORMS = (2, 4, 8, 16, 32)
_TOP = torch.finfo(torch.float16).max


class Kept:
    """The rows of samples of one shape.

    Args:
        bits: one of `FORMS`: 32 float32, 16 float16, below that quantised with a scale a channel of a sample
            (AC-SGD's delta-lowbits).
        shape: of a sample.

    Attributes:
        width: W.
    """

    def __init__(self, bits: int, shape: tuple[int, ...]) -> None:
        assert bits in FORMS
        self.shape = shape
        self._dtype = {16: torch.float16, 32: torch.float32}.get(bits)
        self._codec = Quantize(
            QuantizeOptions(bits=min(bits, 8), scale="channel"), TensorSpec(shape, torch.float32), "kept"
        )
        self.width = math.prod(shape) * bits // 8 if self._dtype else nbytes(self._codec.payload())

    def rows(self, samples: Tensor) -> Tensor:
        """uint8[S, W] of float32[S, *shape]."""
        if self._dtype is None:
            return torch.stack([pack(self._codec.encode(sample, Context())) for sample in samples])
        if self._dtype == torch.float16:  # finer than bfloat16; what it cannot reach, the next change adds
            samples = samples.clamp(-_TOP, _TOP)
        return samples.to(self._dtype).reshape(len(samples), -1).view(torch.uint8)

    def samples(self, rows: Tensor) -> Tensor:
        """float32[S, *shape] of uint8[S, W]."""
        if self._dtype is not None:
            return rows.view(self._dtype).view(-1, *self.shape).float()
        specs = self._codec.payload()
        return torch.stack([self._codec.decode(unpack(row, specs), Context()) for row in rows])
