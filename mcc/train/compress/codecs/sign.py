"""`sign`: one bit a value, and a scale.

    n values of a group   m the mean of |x|   s, m in bfloat16

y = s sign(x), with sign(0) = 1: of all y with such signs and one magnitude, m makes |x - y|^2 least. It is
|x|^2 - n m^2 + n (s - m)^2, and s is off by m/2^8 at most. So less is lost than there is, whatever x is: with feedback
nothing is lost for good. A group of zeros has s = 0.

Source: 1-bit SGD (Seide et al. 2014); signSGD with error feedback, Karimireddy et al. (arXiv 1901.09847), algorithm 1;
1-bit Adam (arXiv 2102.02888).
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
from mcc.train.compress.groups import Groups, Scale


@dataclass(frozen=True, kw_only=True)
class SignOptions:
    """Options of `sign`."""

    scale: Scale = option("token", "values that share a scale")
    block: int = option(128, "values a block, with scale=block")

    def __post_init__(self) -> None:
        if self.block < 1:
            raise UsageError(f"sign: block = {self.block} must be at least 1")


class Sign(Codec):
    """The sign of each value, times the mean magnitude of its token, channel, block or tensor."""

    Options = SignOptions
    source = "signSGD with error feedback, arXiv 1901.09847, algorithm 1; 1-bit Adam, arXiv 2102.02888"

    def __init__(self, options: SignOptions, spec: TensorSpec, key: str) -> None:
        super().__init__(options, spec, key)
        self.count = math.prod(spec.shape)
        self.groups = Groups(options.scale, options.block, spec.shape)

    def payload(self, context: Context = STEADY) -> tuple[TensorSpec, ...]:
        packed = packed_bytes(self.count, 1)
        return (TensorSpec((self.groups.count,), torch.bfloat16), TensorSpec((packed,), torch.uint8))

    def encode(self, x: Tensor, context: Context) -> Payload:
        scale = self.groups.mean(self.groups.split(x.float().abs())).bfloat16()
        return scale.reshape(-1), pack_bits((x.reshape(-1) >= 0).to(torch.uint8), 1)

    def decode(self, payload: Payload, context: Context) -> Tensor:
        scale, packed = payload
        signs = unpack_bits(packed, 1, self.count).float() * 2 - 1
        x = self.groups.split(signs) * self.groups.column(scale.float())
        return self.groups.join(x).to(self.spec.dtype)
