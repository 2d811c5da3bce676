"""`topk`: the k values of largest magnitude, with the indices where they stand.

    n values of the tensor   k of them sent

What is not sent is the smallest: |x - y|^2 <= (1 - k/n)|x|^2, plus the rounding of values of 16 bits (2^-8 of a value
at most). An index takes the fewest bits that address n places; where a bitmap of n bits is shorter than k indices, it
is sent instead. A NaN counts as the largest, so that it is sent. Add feedback where what is left out must not be lost.

Source: MCBench (arXiv 2301.02654), section 3.2; Aji & Heafield (arXiv 1704.05021); with feedback Stich et al.
(arXiv 1809.07599).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mcc.train.compress.bits import bits_for, pack_bits, pack_wide, packed_bytes, unpack_bits, unpack_wide, wide_bytes
from mcc.train.compress.codec import STEADY, Codec, Context, Payload, TensorSpec
from mcc.train.compress.sparse import SparseOptions


class TopK(Codec):
    """The k values of largest magnitude, with their indices packed."""

    Options = SparseOptions
    source = "MCBench, arXiv 2301.02654, section 3.2; sparsified SGD with memory, arXiv 1809.07599"

    def __init__(self, options: SparseOptions, spec: TensorSpec, key: str) -> None:
        super().__init__(options, spec, key)
        self.count = math.prod(spec.shape)
        self.k = options.kept(self.count)
        self.index_bits = bits_for(self.count)
        self.bitmap = packed_bytes(self.count, 1) < wide_bytes(self.k, self.index_bits)

    def payload(self, context: Context = STEADY) -> tuple[TensorSpec, ...]:
        size = packed_bytes(self.count, 1) if self.bitmap else wide_bytes(self.k, self.index_bits)
        return (TensorSpec((self.k,), self.options.dtype(self.spec.dtype)), TensorSpec((size,), torch.uint8))

    def encode(self, x: Tensor, context: Context) -> Payload:
        flat = x.reshape(-1)
        index = flat.abs().topk(self.k, sorted=False).indices.sort().values
        values = flat[index].to(self.options.dtype(self.spec.dtype))
        if not self.bitmap:
            return values, pack_wide(index, self.index_bits)
        there = torch.zeros(self.count, dtype=torch.uint8, device=x.device)
        there[index] = 1
        return values, pack_bits(there, 1)

    def decode(self, payload: Payload, context: Context) -> Tensor:
        values, packed = payload
        flat = torch.zeros(self.count, dtype=self.spec.dtype, device=values.device)
        if self.bitmap:
            index = unpack_bits(packed, 1, self.count).nonzero().view(-1)
        else:
            index = unpack_wide(packed, self.index_bits, self.k)
        flat[index] = values.to(self.spec.dtype)
        return flat.view(self.spec.shape)
