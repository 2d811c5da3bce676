"""`powersgd`: one step of subspace iteration gives a matrix as a product of two thin ones.

    n, m dims of the matrix   r its low rank   M[n, m] ~ P[n, r] Q[m, r]^T

With orthonormal P, P P^T M is a projection: |M - P P^T M|^2 = |M|^2 - |P^T M|^2, never above |M|^2, and repeated on one
matrix it comes down to the best approximation of rank r.

Both factors are held and sent as their transposes, p[r, n] and q[r, m]: with the thin matrix on the left CPU libraries
are as fast, or several times as fast, and orthonormal rows are found sooner than columns.

Evaluation has no step before: it begins at the start and takes a few steps at once.

Source: Vogels et al., PowerSGD (arXiv 1905.13727), algorithm 1; Optimus-CC (arXiv 2301.09830), section 4.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from mcc.core.config import option
from mcc.core.errors import UsageError
from mcc.train.compress import kernels
from mcc.train.compress.codec import STEADY, Codec, Context, Payload, TensorSpec
from mcc.train.compress.codecs.none import Identity
from mcc.train.compress.codecs.quantize import Quantize, QuantizeOptions

if TYPE_CHECKING:
    from mcc.train.compress.collective import Collective

_EVALUATION_STEPS = 4  # of subspace iteration, where training has taken one for each tensor so far
_SUMMED = ("tp.forward", "tp.backward", "dp.grad", "embedding")  # sites where the factors are added over ranks


@dataclass(frozen=True, kw_only=True)
class PowerSGDOptions:
    """Options of `powersgd`."""

    rank: int = option(4, "low rank r of the approximation")
    bits: int = option(32, "bits a value of the factors: 32, 16 (bfloat16), or 1 to 8 (quantised, a scale a column)")
    warm_start: bool = option(True, "begin each step from the last step's factor")
    per: Literal["matrix", "sample"] = option(
        "matrix", "what is one matrix: matrix (all rows of the tensor), or sample (activations [B, T, D]: B of [T, D])"
    )

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
        # Activations [B, T, D] are the matrix [B*T, D], or B matrices [T, D]; a parameter [out, in] is itself.
        self.batch = spec.shape[:1] if options.per == "sample" and len(spec.shape) > 2 else ()
        self.m = spec.shape[-1] if spec.shape else 1
        self.n = math.prod(spec.shape) // max(self.m * math.prod(self.batch), 1)
        self.low_rank = min(options.rank, self.n, self.m)
        self.shape = torch.Size((*self.batch, self.n, self.m))
        self.dtype = torch.bfloat16 if options.bits == 16 else torch.float32
        shapes = [(*self.batch, self.low_rank, self.n), (*self.batch, self.low_rank, self.m)]
        self.factors = [_factor_codec(options.bits, shape, self.dtype, key) for shape in shapes]
        self.q_rm = self._start()

    @classmethod
    def refusal(cls, site: str, options: PowerSGDOptions) -> str | None:
        if options.bits < 16 and site in _SUMMED:
            return f"factors of {options.bits} bits cannot be added over ranks, as {site} does: bits=16 or 32"
        if options.per == "sample" and site in ("dp.grad", "embedding"):
            return "the gradient of a parameter is of no one sample: per=matrix"
        return None

    @classmethod
    def remembers(cls, options: PowerSGDOptions) -> bool:
        return options.warm_start

    def payload(self, context: Context = STEADY) -> tuple[TensorSpec, ...]:
        return tuple(spec for factor in self.factors for spec in factor.payload(context))

    def encode(self, x: Tensor, context: Context) -> Payload:
        matrix = self._matrix(x)
        q_rm = self._last(context)
        for _ in range(self._steps(context) - 1):
            q_rm = orthonormal(q_rm.to(x.device) @ matrix.mT) @ matrix
        sent_p = self.factors[0].encode(self._rows(q_rm, matrix, context), context)
        p_rn = self.factors[0].decode(sent_p, context)  # as the receiver sees it, so that Q makes up for it
        q_rm = (p_rn if p_rn.dtype is torch.float32 else p_rn.float()) @ matrix
        self._remember(q_rm, context)
        return *sent_p, *self.factors[1].encode(q_rm, context)

    def decode(self, payload: Payload, context: Context) -> Tensor:
        half = len(payload) // 2
        p_rn = self.factors[0].decode(payload[:half], context).float()
        q_rm = self.factors[1].decode(payload[half:], context).float()
        return (p_rn.mT @ q_rm).view(self.spec.shape).to(self.spec.dtype)

    @classmethod
    def all_reduce(
        cls, codecs: Sequence[Codec], tensors: Sequence[Tensor], group: Collective, context: Context
    ) -> list[Tensor]:
        """The low-rank sums over ranks: P and Q are linear in M, so two all-reduces give the sum's factors."""
        streams = [codec for codec in codecs if isinstance(codec, PowerSGD)]
        if not streams:
            return []
        matrices = [c._matrix(x) for c, x in zip(streams, tensors, strict=True)]
        qs = [c._alive(c._last(context)).to(m.device) for c, m in zip(streams, matrices, strict=True)]
        for _ in range(streams[0]._steps(context)):
            ps = group.sum_flat([(q.float() @ m.mT).to(c.dtype) for c, m, q in zip(streams, matrices, qs, strict=True)])
            # Every rank has the same sum, so the same rows: not sent again.
            ps = [orthonormal(p.float()) for p in ps]
            qs = group.sum_flat([(p @ m).to(c.dtype) for c, m, p in zip(streams, matrices, ps, strict=True)])
        sums = []
        for codec, p, q in zip(streams, ps, qs, strict=True):
            q = q.to(torch.float32, copy=True)  # it lies in one tensor with the others
            codec._remember(q, context)
            sums.append((p.mT @ q).view(codec.spec.shape).to(codec.spec.dtype))
        return sums

    def state_dict(self) -> dict[str, Tensor]:
        return {"q": self.q_rm.mT.contiguous()} if self.options.warm_start else {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        if self.options.warm_start:
            self.q_rm = state["q"].to(self.q_rm).mT.contiguous()

    def _matrix(self, x: Tensor) -> Tensor:
        x = x.float()
        return x if x.shape == self.shape else x.reshape(self.shape)

    def _start(self) -> Tensor:
        # Every rank of a reduction must begin with the same factor: the seed is the stream's name.
        generator = torch.Generator().manual_seed(zlib.crc32(self.key.encode()))
        return torch.randn(*self.batch, self.m, self.low_rank, generator=generator).mT.contiguous()

    def _steps(self, context: Context) -> int:
        return 1 if context.training or not self.options.warm_start else _EVALUATION_STEPS

    def _last(self, context: Context) -> Tensor:
        return self.q_rm if context.training else self._start()

    def _alive(self, q_rm: Tensor) -> Tensor:
        """The factor, begun anew where it is zero: a zero matrix leaves such a one, which no step could leave again."""
        if q_rm[..., 0, 0].all() if self.batch else q_rm[0, 0]:  # others hardly begin with a zero
            return q_rm
        dead = ~q_rm.flatten(-2).any(-1)
        return torch.where(dead[..., None, None], self._start().to(q_rm), q_rm)

    def _rows(self, q_rm: Tensor, matrix: Tensor, context: Context) -> Tensor:
        """P^T, orthonormal. Kernels do it where no row is zero, which saves the look whether the factor is."""
        p_rn = q_rm.to(matrix.device) @ matrix.mT
        found = kernels.orthonormal(p_rn)
        if found is not None:
            return found
        alive = self._alive(q_rm) if context.training else q_rm
        return _by_qr(p_rn) if alive is q_rm else orthonormal(alive.to(matrix.device) @ matrix.mT)

    def _remember(self, q_rm: Tensor, context: Context) -> None:
        if self.options.warm_start and context.training:
            self.q_rm = q_rm


def _factor_codec(bits: int, shape: tuple[int, ...], dtype: torch.dtype, key: str) -> Codec:
    spec = TensorSpec(shape, dtype)
    if bits >= 16:
        return Identity(Identity.Options(), spec, key)
    return Quantize(QuantizeOptions(bits=bits, scale="token"), spec, key)


def orthonormal(p_rn: Tensor) -> Tensor:
    """Orthonormal rows that span those of p[..., r, n], the first ones what its first ones do."""
    found = kernels.orthonormal(p_rn)
    return _by_qr(p_rn) if found is None else found


def _by_qr(p_rn: Tensor) -> Tensor:
    q_nr, r_rr = torch.linalg.qr(p_rn.mT)
    # Of the signs that fit those of the kernels, so that ranks can be added up whichever each has.
    q_rn = q_nr.mT * torch.where(r_rr.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0)[..., None]
    # Contiguous as what comes over the wire: products of other strides may end in other bits.
    return q_rn.contiguous()
