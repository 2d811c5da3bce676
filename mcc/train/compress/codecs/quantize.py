"""`quantize`: uniform quantisation to 1..8 bits, bit-packed, one scale a row, block, channel or tensor.

    R rows   D last dim   b bits   s scale

The grid is mid-rise: 2**b levels of width 2s/2**b fill [-s, s] with s = max|x|, and a value decodes to the middle of
its level, so the error is at most s/2**b. A zero group decodes to zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mcc.core.config import option
from mcc.core.errors import UsageError
from mcc.train.compress.bits import pack_bits, packed_bytes, unpack_bits
from mcc.train.compress.codec import STEADY, Codec, Context, Payload, TensorSpec
from mcc.train.compress.groups import HEADROOM, Groups, Scale


@dataclass(frozen=True, kw_only=True)
class QuantizeOptions:
    """Options of `quantize`."""

    bits: int = option(8, "bits a value, 1 to 8")
    scale: Scale = option("token", "values that share a scale")
    block: int = option(128, "values a block, with scale=block")

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8:
            raise UsageError(f"quantize: bits = {self.bits} is not in 1..8")
        if self.block < 1:
            raise UsageError(f"quantize: block = {self.block} must be at least 1")


class Quantize(Codec):
    """Uniform quantisation to 1..8 bits, bit-packed, a scale per token, channel, block or tensor."""

    Options = QuantizeOptions
    source = "AQ-SGD, arXiv 2206.01299, section 3; MCBench, arXiv 2301.02654, section 3.2"

    def __init__(self, options: QuantizeOptions, spec: TensorSpec, key: str) -> None:
        super().__init__(options, spec, key)
        self.count = math.prod(spec.shape)
        self.groups = Groups(options.scale, options.block, spec.shape)

    def payload(self, context: Context = STEADY) -> tuple[TensorSpec, ...]:
        packed = packed_bytes(self.count, self.options.bits)
        return (TensorSpec((self.groups.count,), torch.bfloat16), TensorSpec((packed,), torch.uint8))

    def encode(self, x: Tensor, context: Context) -> Payload:
        grouped = self.groups.split(x.float())
        scale = (grouped.abs().amax(self.groups.dim, keepdim=True) * HEADROOM).bfloat16()
        half = 2 ** (self.options.bits - 1)
        inverse = (half / scale.float()).nan_to_num_(posinf=0.0, nan=0.0)  # a zero group: any level will do
        levels = (grouped * inverse).floor_().add_(half).clamp_(0, 2 * half - 1)
        q = levels.to(torch.uint8).reshape(-1)[: self.count]
        return scale.reshape(-1), pack_bits(q.contiguous(), self.options.bits)

    def decode(self, payload: Payload, context: Context) -> Tensor:
        scale, packed = payload
        half = 2 ** (self.options.bits - 1)
        q = unpack_bits(packed, self.options.bits, self.count).float()
        x = (self.groups.split(q) + (0.5 - half)) * (self.groups.column(scale.float()) / half)
        return self.groups.join(x).to(self.spec.dtype)
