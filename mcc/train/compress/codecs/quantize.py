"""`quantize`: uniform quantisation to 1..8 bits, bit-packed, one scale a row, block, channel or tensor.

    R rows   D last dim   b bits   s scale

The grid is mid-rise: 2**b levels of width w = 2s/2**b fill [-s, s], and a value decodes to the middle of its level. A
zero group decodes to zero.

`range=max`: s = max|x|, so the error is at most w/2. `range=rms`: s is twice the root of the mean of squares; levels
are narrower, and what is beyond s is cut off: the error is w/2, or |x| - s + w/2 if that is more.

`rounding=stochastic`: of the two middles beside a value it decodes to either, the nearer the likelier, so that the mean
over draws is the value, and the error is below w. The outermost middles stand at max|x| then: w = 2 max|x|/(2**b - 1);
with `range=rms` what is beyond them is cut off. Draws belong to the stream, the step, the micro-batch and the rank of a
sum: a run that is resumed draws the same.

`grid=acsgd` is AC-SGD's, made for activations: s in float16, q = clip(round(2**(b-1) x / (s + 1e-6)), -2**(b-1),
2**(b-1) - 1), decoded as q s / 2**(b-1). It has zero, but not +s: the largest value is off by s/2**(b-1). Values beyond
65504 make it infinite, values near 1e-6 come out too small.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mcc.core.config import option
from mcc.core.errors import UsageError
from mcc.train.compress import draws, kernels
from mcc.train.compress.bits import pack_bits, packed_bytes, unpack_bits
from mcc.train.compress.codec import STEADY, Codec, Context, Payload, TensorSpec
from mcc.train.compress.groups import HEADROOM, Groups, Scale
from mcc.train.compress.kernels.layout import Layout

_BLOCK = 128


@dataclass(frozen=True, kw_only=True)
class QuantizeOptions:
    """Options of `quantize`."""

    bits: int = option(8, "bits a value, 1 to 8")
    scale: Scale = option("token", "values that share a scale")
    block: int = option(_BLOCK, "values a block, with scale=block")
    range: Literal["max", "rms"] = option("max", "what the scale is: the largest magnitude, or twice the RMS")
    rounding: Literal["nearest", "stochastic"] = option("nearest", "stochastic: right in the mean over draws")
    grid: Literal["midrise", "acsgd"] = option("midrise", "where values decode to; acsgd: as AC-SGD does")

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8:
            raise UsageError(f"quantize: bits = {self.bits} is not in 1..8")
        if self.block < 1:
            raise UsageError(f"quantize: block = {self.block} must be at least 1")
        if self.block != _BLOCK and self.scale != "block":
            raise UsageError(f"quantize: block = {self.block} says nothing with scale={self.scale}", "add scale=block")


class Quantize(Codec):
    """Uniform quantisation to 1..8 bits, bit-packed, a scale per token, channel, block or tensor."""

    Options = QuantizeOptions
    source = "AQ-SGD, arXiv 2206.01299, section 3; MCBench, arXiv 2301.02654, section 3.2"

    def __init__(self, options: QuantizeOptions, spec: TensorSpec, key: str) -> None:
        super().__init__(options, spec, key)
        self.count = math.prod(spec.shape)
        self.groups = Groups(options.scale, options.block, spec.shape)
        self.layout = Layout.of(self.groups, options.bits)

    @classmethod
    def feedback_refusal(cls, options: QuantizeOptions) -> str | None:
        if options.bits == 1 and options.rounding == "stochastic" and options.range == "max":
            return "1 bit, rounding=stochastic loses more than there is, so that feedback's error would grow: range=rms"
        return None

    def payload(self, context: Context = STEADY) -> tuple[TensorSpec, ...]:
        packed = packed_bytes(self.count, self.options.bits)
        dtype = torch.float16 if self.options.grid == "acsgd" else torch.bfloat16
        return (TensorSpec((self.groups.count,), dtype), TensorSpec((packed,), torch.uint8))

    def encode(self, x: Tensor, context: Context) -> Payload:
        found = kernels.encode(x, self.layout) if self.usual else None
        return found or self.encode_plainly(x, context)

    def encode_plainly(self, x: Tensor, context: Context = STEADY) -> Payload:
        """What `encode` gives, by plain torch operations."""
        grouped = self.groups.split(x.float())
        scale, levels = self._usual(grouped) if self.usual else self._otherwise(grouped, context)
        q = levels.to(torch.uint8).reshape(-1)[: self.count]
        return scale.reshape(-1), pack_bits(q.contiguous(), self.options.bits)

    def decode(self, payload: Payload, context: Context) -> Tensor:
        scale, packed = payload
        found = kernels.decode(scale, packed, self.layout, self.spec.dtype) if self._midrise else None
        return self.decode_plainly(payload) if found is None else found.view(self.spec.shape)

    def decode_plainly(self, payload: Payload) -> Tensor:
        """What `decode` gives, by plain torch operations."""
        scale, packed = payload
        half = 2 ** (self.options.bits - 1)
        middle = 0.5 if self._midrise else 0.0
        q = unpack_bits(packed, self.options.bits, self.count).float()
        x = (self.groups.split(q) + (middle - half)) * (self.groups.column(scale.float()) / half)
        return self.groups.join(x).to(self.spec.dtype)

    def add_decoded(self, payload: Payload, context: Context, total: Tensor) -> None:
        scale, packed = payload
        fused = self._midrise and total.dtype is torch.float32 and total.is_contiguous()
        if not fused or kernels.decode(scale, packed, self.layout, self.spec.dtype, total) is None:
            super().add_decoded(payload, context, total)

    @property
    def _midrise(self) -> bool:
        return self.options.grid == "midrise"

    @property
    def usual(self) -> bool:
        """Whether `encode` does as by default: nearest middle of a level, levels up to the largest magnitude."""
        options = self.options
        return (options.range, options.rounding, options.grid) == ("max", "nearest", "midrise")

    def _usual(self, grouped: Tensor) -> tuple[Tensor, Tensor]:
        """Scales and levels of groups."""
        scale = (grouped.abs().amax(self.groups.dim, keepdim=True) * HEADROOM).bfloat16()
        half = 2 ** (self.options.bits - 1)
        inverse = (half / scale.float()).nan_to_num_(posinf=0.0, nan=0.0)  # a zero group: any level will do
        return scale, (grouped * inverse).floor_().add_(half).clamp_(0, 2 * half - 1)

    def _otherwise(self, grouped: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Scales and levels of groups, by the options."""
        options, half = self.options, 2 ** (self.options.bits - 1)
        stochastic, acsgd = options.rounding == "stochastic", options.grid == "acsgd"
        if options.range == "rms":
            top = 2 * self.groups.mean(grouped.square()).sqrt()
        else:
            top = grouped.abs().amax(self.groups.dim, keepdim=True)
            if not acsgd:
                top *= HEADROOM * (2 * half / (2 * half - 1) if stochastic else 1)
        if acsgd:
            scale = top.half()
            levels = grouped * half / (scale.float() + 1e-6)
        else:
            scale = top.bfloat16()
            levels = grouped * (half / scale.float()).nan_to_num_(posinf=0.0, nan=0.0) - 0.5
        if stochastic:
            generator = draws.generator(self.key, context, grouped.device, self.rank)
            levels += torch.rand(levels.shape, generator=generator, device=grouped.device)
            levels.floor_()
        else:
            levels.round_()
        return scale, levels.add_(half).nan_to_num_(nan=0.0).clamp_(0, 2 * half - 1)
