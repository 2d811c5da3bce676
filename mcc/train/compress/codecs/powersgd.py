"""`powersgd`: one step of subspace iteration gives a matrix as a product of two thin ones.

    n, m dims of the matrix   r its low rank   M[n, m] ~ P[n, r] Q[m, r]^T

Source: Vogels et al., PowerSGD (arXiv 1905.13727), algorithm 1; Optimus-CC (arXiv 2301.09830), section 4.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mcc.core.config import option
from mcc.core.errors import UsageError
from mcc.train.compress.codec import STEADY, Codec, Context, Payload, TensorSpec
from mcc.train.compress.codecs.none import Identity
from mcc.train.compress.codecs.quantize import Quantize, QuantizeOptions

if TYPE_CHECKING:
    from mcc.train.compress.collective import Collective

_SUMMED = ("tp.forward", "tp.backward", "dp.grad", "embedding")  # sites where the factors are added over ranks


@dataclass(frozen=True, kw_only=True)
class PowerSGDOptions:
    """Options of `powersgd`."""

    rank: int = option(4, "low rank r of the approximation")
    bits: int = option(32, "bits a value of the factors: 32, 16 (bfloat16), or 1 to 8 (quantised, a scale a column)")
    warm_start: bool = option(True, "begin each step from the last step's factor")

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UsageError(f"powersgd: rank = {self.rank} must be at least 1")
        if self.bits not in (32, 16, *range(1, 9)):
            raise UsageError(f"powersgd: bits = {self.bits} is not 32, 16 or in 1..8")


class PowerSGD(Codec):
    """Low-rank approximation by one warm-started step of subspace iteration."""

    Options = PowerSGDOptions
    source = "PowerSGD, arXiv 1905.13727, algorithm 1; Optimus-CC, arXiv 2301.09830"
    matrixwise = True

    def __init__(self, options: PowerSGDOptions, spec: TensorSpec, key: str) -> None:
        super().__init__(options, spec, key)
        # Activations [B, T, D] are the matrix [B*T, D]; a parameter [out, in] is itself.
        self.m = spec.shape[-1] if spec.shape else 1
        self.n = math.prod(spec.shape) // max(self.m, 1)
        self.low_rank = min(options.rank, self.n, self.m)
        self.dtype = torch.bfloat16 if options.bits == 16 else torch.float32
        shapes = [(self.n, self.low_rank), (self.m, self.low_rank)]
        self.factors = [_factor_codec(options.bits, shape, self.dtype, key) for shape in shapes]
        self.q_mr = self._start()

    @classmethod
    def refusal(cls, site: str, options: PowerSGDOptions) -> str | None:
        if options.bits < 16 and site in _SUMMED:
            return f"factors of {options.bits} bits cannot be added over ranks, as {site} does: bits=16 or 32"
        return None

    def payload(self, context: Context = STEADY) -> tuple[TensorSpec, ...]:
        return tuple(spec for factor in self.factors for spec in factor.payload(context))

    def encode(self, x: Tensor, context: Context) -> Payload:
        matrix = x.reshape(self.n, self.m).float()
        sent_p = self.factors[0].encode(orthonormal(matrix @ self._factor(x.device)).to(self.dtype), context)
        p_nr = self.factors[0].decode(sent_p, context).float()  # as the receiver sees it, so that Q makes up for it
        q_mr = matrix.T @ p_nr
        self._remember(q_mr)
        return *sent_p, *self.factors[1].encode(q_mr.to(self.dtype), context)

    def decode(self, payload: Payload, context: Context) -> Tensor:
        half = len(payload) // 2
        p_nr = self.factors[0].decode(payload[:half], context).float()
        q_mr = self.factors[1].decode(payload[half:], context).float()
        return (p_nr @ q_mr.T).view(self.spec.shape).to(self.spec.dtype)

    @classmethod
    def all_reduce(
        cls, codecs: Sequence[Codec], tensors: Sequence[Tensor], group: Collective, context: Context
    ) -> list[Tensor]:
        """The low-rank sums over ranks: P and Q are linear in M, so two all-reduces give the sum's factors."""
        streams = [codec for codec in codecs if isinstance(codec, PowerSGD)]
        matrices = [x.reshape(c.n, c.m).float() for c, x in zip(streams, tensors, strict=True)]
        ps = group.sum_flat([(m @ c._factor(m.device)).to(c.dtype) for c, m in zip(streams, matrices, strict=True)])
        ps = [orthonormal(p.float()) for p in ps]  # every rank has the same sum, so the same columns: not sent again
        qs = group.sum_flat([(m.T @ p).to(c.dtype) for c, m, p in zip(streams, matrices, ps, strict=True)])
        sums = []
        for codec, p, q in zip(streams, ps, qs, strict=True):
            codec._remember(q)
            sums.append((p @ q.float().T).view(codec.spec.shape).to(codec.spec.dtype))
        return sums

    def state_dict(self) -> dict[str, Tensor]:
        return {"q": self.q_mr} if self.options.warm_start else {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        if self.options.warm_start:
            self.q_mr = state["q"].to(self.q_mr)

    def _start(self) -> Tensor:
        # Every rank of a reduction must begin with the same factor: the seed is the stream's name.
        generator = torch.Generator().manual_seed(zlib.crc32(self.key.encode()))
        return torch.randn(self.m, self.low_rank, generator=generator)

    def _factor(self, device: torch.device) -> Tensor:
        # A zero matrix leaves a zero factor, which no step could leave again.
        return (self.q_mr if bool(self.q_mr.any()) else self._start()).to(device)

    def _remember(self, q_mr: Tensor) -> None:
        if self.options.warm_start:
            self.q_mr = q_mr.float().clone()


def _factor_codec(bits: int, shape: tuple[int, int], dtype: torch.dtype, key: str) -> Codec:
    spec = TensorSpec(shape, dtype)
    if bits >= 16:
        return Identity(Identity.Options(), spec, key)
    return Quantize(QuantizeOptions(bits=bits, scale="channel"), spec, key)


def orthonormal(p_nr: Tensor) -> Tensor:
    """Orthonormal columns that span those of p[n, r]."""
    return torch.linalg.qr(p_nr).Q
