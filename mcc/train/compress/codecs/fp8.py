"""`fp8`: floating point of 8 bits, and a scale that makes the largest value of a group the largest of the format.

    s scale, max|x| / largest; max|x| is sent

`e4m3` has 4 bits of exponent and 3 of mantissa, its largest value is 448; `e5m2` has 5 and 2, up to 57344: less exact,
more range. Rounded to the nearest, a value is off by 2^-4 of itself (e4m3), and below its 2^-6 s by 2^-10 s at most; by
2^-3 of itself (e5m2), and below 2^-14 s by 2^-17 s. The scale is rounded up, so no value is cut off, and no finite one
becomes a NaN.

Source: Micikevicius et al., FP8 formats for deep learning (arXiv 2209.05433), section 3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mcc.core.config import option
from mcc.core.errors import UsageError
from mcc.train.compress.codec import STEADY, Codec, Context, Payload, TensorSpec
from mcc.train.compress.groups import HEADROOM, Groups, Scale

_FORMATS = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}


@dataclass(frozen=True, kw_only=True)
class Fp8Options:
    """Options of `fp8`."""

    format: Literal["e4m3", "e5m2"] = option("e4m3", "bits of exponent and mantissa")
    scale: Scale = option("token", "values that share a scale")
    block: int = option(128, "values a block, with scale=block")

    def __post_init__(self) -> None:
        if self.block < 1:
            raise UsageError(f"fp8: block = {self.block} must be at least 1")


class Fp8(Codec):
    """Floating point of 8 bits, with a scale per token, channel, block or tensor."""

    Options = Fp8Options
    source = "FP8 formats for deep learning, arXiv 2209.05433, section 3"

    def __init__(self, options: Fp8Options, spec: TensorSpec, key: str) -> None:
        super().__init__(options, spec, key)
        self.count = math.prod(spec.shape)
        self.groups = Groups(options.scale, options.block, spec.shape)
        self.format = _FORMATS[options.format]
        self.largest = torch.finfo(self.format).max

    def payload(self, context: Context = STEADY) -> tuple[TensorSpec, ...]:
        return (TensorSpec((self.groups.count,), torch.bfloat16), TensorSpec((self.count,), torch.uint8))

    def encode(self, x: Tensor, context: Context) -> Payload:
        grouped = self.groups.split(x.float())
        top = (grouped.abs().amax(self.groups.dim, keepdim=True) * HEADROOM).bfloat16()
        inverse = top.float().reciprocal().nan_to_num_(posinf=0.0, nan=0.0)  # a zero group stays zero
        values = (grouped * inverse).mul_(self.largest).clamp_(-self.largest, self.largest)  # beyond, e4m3 has but NaN
        return top.reshape(-1), self.groups.join(values).to(self.format).view(torch.uint8).view(-1)

    def decode(self, payload: Payload, context: Context) -> Tensor:
        top, values = payload
        x = self.groups.split(values.view(self.format).float() / self.largest) * self.groups.column(top.float())
        return self.groups.join(x).to(self.spec.dtype)
