"""`randomk`: k values at places that both ends draw alike, so no index is sent.

    n values of the tensor   k of them sent   b, a drawn for each tensor

The places are b, b + a, b + 2a, ... modulo n, with a step a that has no divisor in common with n: k places that differ,
each value with probability k/n. So the mean over draws of |x - y|^2 is (1 - k/n)|x|^2. With `rescale` the values are
sent n/k times as large: then the mean of y is x, and the mean of |x - y|^2 is (n/k - 1)|x|^2. Ranks that sum draw the
same places, and add values without decoding them.

If a value that is not drawn is not finite, what is sent is NaN.

Source: MCBench (arXiv 2301.02654), section 3.2; with feedback Stich et al. (arXiv 1809.07599).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mcc.core.config import option
from mcc.train.compress import draws
from mcc.train.compress.codec import STEADY, Codec, Context, Payload, TensorSpec
from mcc.train.compress.sparse import SparseOptions


@dataclass(frozen=True, kw_only=True)
class RandomKOptions(SparseOptions):
    """Options of `randomk`."""

    rescale: bool = option(False, "send values n/k times as large, so that the mean over draws is the tensor")


class RandomK(Codec):
    """k values at places drawn from a shared seed; no index is sent."""

    Options = RandomKOptions
    source = "MCBench, arXiv 2301.02654, section 3.2; sparsified SGD with memory, arXiv 1809.07599"
    additive = True

    def __init__(self, options: RandomKOptions, spec: TensorSpec, key: str) -> None:
        super().__init__(options, spec, key)
        self.count = math.prod(spec.shape)
        self.k = options.kept(self.count)

    @classmethod
    def feedback_refusal(cls, options: RandomKOptions) -> str | None:
        return "rescale=on loses more than there is, so that feedback's error would grow" if options.rescale else None

    def payload(self, context: Context = STEADY) -> tuple[TensorSpec, ...]:
        return (TensorSpec((self.k,), self.options.dtype(self.spec.dtype)),)

    def encode(self, x: Tensor, context: Context) -> Payload:
        flat = x.reshape(-1)
        largest = torch.linalg.vector_norm(flat, math.inf)
        values = flat[self._places(context, x.device)].float() * self._scale + largest.float() * 0
        return (values.to(self.options.dtype(self.spec.dtype)),)

    def decode(self, payload: Payload, context: Context) -> Tensor:
        (values,) = payload
        flat = torch.zeros(self.count, dtype=self.spec.dtype, device=values.device)
        flat[self._places(context, values.device)] = values.to(self.spec.dtype)
        return flat.view(self.spec.shape)

    @property
    def _scale(self) -> float:
        return self.count / self.k if self.options.rescale else 1.0

    def _places(self, context: Context, device: torch.device) -> Tensor:
        numbers, n = draws.numbers(self.key, context), self.count
        first, step = numbers.randrange(n), numbers.randrange(n)
        while math.gcd(step, n) != 1:  # about 6 in 10 draws have no common divisor
            step = numbers.randrange(n)
        return (torch.arange(self.k, device=device) * step + first) % n
