"""After the backward pass: gradients averaged over the replicas, tied embeddings kept equal, the global norm clipped.

It runs once a step on a fixed, name-keyed order of parameters, so it works under every schedule and resumes exactly.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mcc.models.base.family import Family
from mcc.train.compress.codec import Codec, Context, TensorSpec
from mcc.train.compress.collective import Collective, CompressedSum
from mcc.train.compress.spec import CodecSpec
from mcc.train.compress.verify import check_alike
from mcc.train.parallel.mesh import Mesh
from mcc.train.parallel.places import Selects
from mcc.train.parallel.tensor import Clock

if TYPE_CHECKING:
    from mcc.train.parallel.zero import Zero

# The tied embedding is summed over its two copies and all replicas at once (Optimus-CC, arXiv 2301.09830, section 5).
TIED = "embedding.tokens.weight"
_WIDTH = 1024  # a flat bucket is coded as rows of this many values


class GradSync:
    """The mean over the data-parallel replicas of every gradient but the tied embedding's.

    With a matrix codec (PowerSGD) each matrix that it makes smaller is coded by itself; all else goes in one flat
    dense bucket. With any other codec the flat bucket is coded whole; with tensor parallelism in two, since what every
    tensor-parallel rank holds must be coded alike on each, and not beside what it holds alone.

    Args:
        parameters: this rank's, by name.
        mesh: this rank's place.
        compress: the codec of each site; that of `dp.grad` is used here.
        clock: the engine's.
        tied: whether the model ties its output layer to the embedding.
        zero: which rows the replicas own, or None. Uncompressed gradients then go to the owners alone.
        alike: parameters that every tensor-parallel rank holds whole.
        selects: the parameters, by name, that the codec is for; the others go uncompressed.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        mesh: Mesh,
        compress: Mapping[str, CodecSpec],
        clock: Clock,
        tied: bool = True,
        zero: Zero | None = None,
        alike: Collection[str] = (),
        selects: Selects = lambda name: True,
    ) -> None:
        self.zero = zero
        self.group, self.clock = mesh.replicas_sum("dp.grad"), clock
        self.flat = {name: parameters[name] for name in sorted(parameters) if not tied or name != TIED}
        chosen = {name: parameter for name, parameter in self.flat.items() if selects(name)}
        self.spec = coded(compress, mesh) if chosen else None
        self.coded: dict[str, nn.Parameter] = {}
        self.streams: dict[str, Codec] = {}
        self.buckets: list[tuple[str, list[str], CompressedSum]] = []
        spec = self.spec
        if spec is None or self.group.size == 1:
            return
        if not spec.codec.matrixwise:
            whole = [name for name in chosen if name in alike and mesh.tp > 1]
            for key, names in (("bucket", [name for name in chosen if name not in whole]), ("alike", whole)):
                elements = sum(self.flat[name].numel() for name in names)
                if elements:
                    self.buckets.append((key, names, CompressedSum(spec, rows_spec(elements), key, self.group)))
            return
        for name, parameter in chosen.items():
            if parameter.dim() < 2:
                continue
            codec = spec.make(TensorSpec(tuple(parameter.shape), torch.float32), name)
            if codec.payload_bytes < parameter.nbytes:
                self.streams[name] = codec
                self.coded[name] = self.flat.pop(name)

    def __call__(self) -> None:
        """Replace every gradient by its mean over the replicas. The same bits on each."""
        if self.group.size == 1:
            return
        context, active = self.clock.context(), self.clock.active(self.spec)
        if self.zero is not None and not active:
            self.zero.reduce()
            return
        dense = list(self.flat.values())
        if self.coded and not active:
            dense += self.coded.values()
        elif self.coded:
            codecs = list(self.streams.values())
            grads = [gradient(p) for p in self.coded.values()]
            with self.group.span("encode"):
                sums = type(codecs[0]).all_reduce(codecs, grads, self.group, context)
            assert sums is not None
            if self.group.wire.verify:
                check_alike(self.group, sums, context)
            self._set(grads, sums)
        if self.buckets and active:
            for _, names, stream in self.buckets:
                grads = [gradient(self.flat[name]) for name in names]
                self._set(grads, _summed(grads, stream, context))
            inside = {name for _, names, _ in self.buckets for name in names}
            dense = [parameter for name, parameter in self.flat.items() if name not in inside]
        grads = [gradient(p) for p in dense]
        self._set(grads, self.group.sum_flat(grads))

    def codecs(self) -> dict[str, Codec]:
        """Every codec in use, by key."""
        coded = {f"{key}/{name}": codec for key, _, bucket in self.buckets for name, codec in bucket.codecs().items()}
        return {**self.streams, **coded}

    def _set(self, grads: Sequence[Tensor], sums: Sequence[Tensor]) -> None:
        for grad, total in zip(grads, sums, strict=True):
            torch.div(total, self.group.size, out=grad)


def coded(compress: Mapping[str, CodecSpec], mesh: Mesh) -> CodecSpec | None:
    """The codec of `dp.grad`, or None where sums are those without one."""
    spec = compress.get("dp.grad")
    return None if spec is not None and spec.sums_plainly(mesh.dp * mesh.cp) else spec


def rows_spec(elements: int) -> TensorSpec:
    """What `as_rows` gives of so many values."""
    return TensorSpec((-(-elements // _WIDTH), _WIDTH), torch.float32)


def as_rows(flat: Tensor) -> Tensor:
    """A flat tensor as rows to be coded, the last one filled up with zeros."""
    return nn.functional.pad(flat, (0, -flat.numel() % _WIDTH)).view(-1, _WIDTH)


def _summed(grads: Sequence[Tensor], stream: CompressedSum, context: Context) -> list[Tensor]:
    """The sums over the replicas, coded as one flat bucket."""
    flat = torch.cat([grad.reshape(-1) for grad in grads])
    pieces = stream(as_rows(flat), context).reshape(-1)[: flat.numel()].split([grad.numel() for grad in grads])
    return [piece.view(grad.shape) for piece, grad in zip(pieces, grads, strict=True)]


def sequence_parameters(names: Iterable[str], family: Family, sequence: bool = True) -> list[str]:
    """The parameters that see only this rank's tokens under sequence parallelism, though every rank holds them whole:
    those of norms, biases after a reduce-scatter, and such. Without it, those that see this rank's partial sums."""
    rows = [(name, family.row(name)) for name in sorted(names)]
    return [name for name, row in rows if row.tp_dim is None and (row.tokens == "own" if sequence else row.partial)]


def sync_sequence(parameters: Mapping[str, nn.Parameter], names: Sequence[str], group: Collective) -> None:
    """Replace the gradients of `names` (see `sequence_parameters`) by their sums over the tensor-parallel ranks."""
    if group.size == 1 or not names:
        return
    grads = [gradient(parameters[name]) for name in names]
    for grad, total in zip(grads, group.sum_flat(grads), strict=True):
        grad.copy_(total)


@torch.no_grad()
def clip_(
    parameters: Mapping[str, nn.Parameter],
    family: Family,
    mesh: Mesh,
    group: Collective,
    limit: float,
    first: bool,
    replicas: int = 1,
) -> float:
    """Scale all gradients so that their global norm is at most `limit` (0: only measure); the norm before.

    A sharded parameter counts on every tensor-parallel rank, a replicated one on the first, a tied one once, where the
    `first` stage is. Where `group` has several `replicas`, it is the root of the mean square of their norms.
    """
    device = next(iter(parameters.values())).device if parameters else None
    total = torch.zeros((), dtype=torch.float64, device=device)
    for name in sorted(parameters):
        counted = mesh.tp_rank == 0 or family.row(name).tp_dim is not None
        copy = name == TIED and not first
        if counted and not copy:
            total += _squares(gradient(parameters[name]))
    norm = float((group.sum_(total) / replicas).sqrt())
    if limit and norm > limit:
        for parameter in parameters.values():
            gradient(parameter).mul_(limit / (norm + 1e-6))
    return norm


def _squares(grad: Tensor) -> Tensor:
    """The sum of squares in float64. A row's norm is float32's: a float64 copy of everything would take 25 times as
    long, and one float32 sum over everything would be a millionth off."""
    rows = torch.linalg.vector_norm(grad, dim=-1) if grad.dim() > 1 else grad
    return rows.double().square().sum()


def gradient(parameter: nn.Parameter) -> Tensor:
    """A parameter's gradient, zeros where it got none."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad
