"""`hadamard`: a randomised rotation of blocks spreads outliers over their block, then the block is quantised.

    B values of a block, a power of two   b bits   s scale of a block   H the Hadamard matrix, of 1 and -1

z = H diag(t) x / sqrt(B) with signs t drawn once a stream. The rotation is orthogonal: what quantising z loses is what
x loses, and each value of z has a share of each of x, so that one outlier no longer makes the scale of all: max|z| is
near sqrt(2 ln(2B)) |x|/sqrt(B), and never above |x|. Per value of z the error is s/2**b at most (`quantize`), so in a
block |x - y|^2 <= B s^2/4**b, with s <= 1.01 |x|.

Blocks lie along the last dim; what is short of a block is filled with zeros, and sent. A narrower last dim has blocks
of the next power of two.

Source: QuIP# (arXiv 2402.04396), section 3; SDP4Bit (arXiv 2410.15526); Suresh et al. (arXiv 1611.00429),
section 3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from mcc.core.config import option
from mcc.core.errors import UsageError
from mcc.train.compress import draws
from mcc.train.compress.codec import STEADY, Codec, Context, Payload, TensorSpec
from mcc.train.compress.codecs.quantize import Quantize, QuantizeOptions


@dataclass(frozen=True, kw_only=True)
class HadamardOptions:
    """Options of `hadamard`."""

    bits: int = option(4, "bits a value, 2 to 4")
    block: int = option(128, "values that are rotated together and share a scale, a power of two")

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 4:
            raise UsageError(f"hadamard: bits = {self.bits} is not in 2..4: quantize has the others")
        if self.block < 2 or self.block & (self.block - 1):
            raise UsageError(f"hadamard: block = {self.block} is no power of two from 2 on")


class Hadamard(Codec):
    """Blocks rotated by a randomised Hadamard matrix, then quantised to 2..4 bits with a scale a block."""

    Options = HadamardOptions
    source = "SDP4Bit, arXiv 2410.15526; rotated quantisation, arXiv 1611.00429, section 3"

    def __init__(self, options: HadamardOptions, spec: TensorSpec, key: str) -> None:
        super().__init__(options, spec, key)
        self.width = spec.shape[-1] if spec.shape else 1
        self.block = min(options.block, 1 << max(self.width - 1, 1).bit_length())
        padded = -(-self.width // self.block) * self.block
        rotated = TensorSpec((math.prod(spec.shape) // max(self.width, 1), padded), torch.float32)
        self.quantizer = Quantize(QuantizeOptions(bits=options.bits, scale="block", block=self.block), rotated, key)
        signs = torch.Generator().manual_seed(draws.seed(key, STEADY))
        self.signs = torch.randint(0, 2, (padded,), generator=signs).float() * 2 - 1

    def payload(self, context: Context = STEADY) -> tuple[TensorSpec, ...]:
        return self.quantizer.payload(context)

    def encode(self, x: Tensor, context: Context) -> Payload:
        rows = pad(x.reshape(-1, self.width).float(), (0, len(self.signs) - self.width))
        return self.quantizer.encode(rotated(rows * self.signs.to(x.device), self.block), context)

    def decode(self, payload: Payload, context: Context) -> Tensor:
        rows = rotated(self.quantizer.decode(payload, context), self.block)  # the rotation is its own inverse
        rows *= self.signs.to(rows.device)
        return rows[:, : self.width].reshape(self.spec.shape).to(self.spec.dtype)


def rotated(x: Tensor, block: int) -> Tensor:
    """H x / sqrt(block) of every block along the last dim of x[R, D], in log2(block) rounds of sums and differences.

    >>> rotated(torch.tensor([[1.0, 0.0, 0.0, 0.0]]), 4)
    tensor([[0.5000, 0.5000, 0.5000, 0.5000]])
    """
    half, y = 1, x
    while half < block:
        pairs = y.view(-1, 2, half)
        y = torch.stack((pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]), dim=1)
        half *= 2
    return y.reshape(x.shape) * block**-0.5
