"""The tied embedding's gradient: the sum of both copies', averaged over the replicas, the same bits everywhere.

Fused, one sum runs over both copies and all replicas (Optimus-CC, arXiv 2301.09830, section 5). Separate, the classic
way, each copy is averaged over its replicas first, and the two means are added then. Of D replicas a rank sends
2(2D - 1)/2D gradients fused, 2(D - 1)/D + 1 separate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch.distributed as dist
from torch import nn

from mcc.train.compress.codec import Codec, TensorSpec
from mcc.train.compress.collective import Collective, CompressedSum
from mcc.train.compress.spec import CodecSpec
from mcc.train.parallel.gradients import gradient
from mcc.train.parallel.mesh import Mesh
from mcc.train.parallel.tensor import Clock

SITE = "embedding"


class TiedSync:
    """The sum of a tied embedding's gradients over one group of ranks after the other, compressed or not.

    Args:
        parameter: the copy of this rank.
        groups: the sums to make, in order; `sums` gives them.
        replicas: the mean is over so many.
        compress: the codec of each site; that of `embedding` is used here.
        clock: the engine's.
    """

    def __init__(
        self,
        parameter: nn.Parameter,
        groups: Sequence[Collective],
        replicas: int,
        compress: Mapping[str, CodecSpec],
        clock: Clock,
    ) -> None:
        self.parameter, self.groups, self.replicas = parameter, groups, replicas
        self.spec, self.clock = compress.get(SITE), clock
        self.streams: list[CompressedSum] = []
        if self.spec is not None and parameter.numel():  # with --fully-shard a rank may hold no rows
            shape = TensorSpec(tuple(parameter.shape), parameter.dtype)
            self.streams = [CompressedSum(self.spec, shape, f"sum{i}", group) for i, group in enumerate(groups)]

    def __call__(self) -> None:
        """Replace the gradient by the mean over the replicas of the copies' sum."""
        grad = gradient(self.parameter)
        if self.streams and self.clock.active(self.spec):
            for stream in self.streams:
                grad.copy_(stream(grad, self.clock.context()))
        else:
            for group in self.groups:
                group.sum_(grad)
        grad.div_(self.replicas)

    def codecs(self) -> dict[str, Codec]:
        """Every codec in use, by key."""
        return {
            f"sum{i}/{name}": codec
            for i, stream in enumerate(self.streams)
            if stream.group.size > 1
            for name, codec in stream.codecs().items()
        }


def sums(mesh: Mesh, ends: Sequence[int], separate: bool) -> list[Collective]:
    """The groups over which this rank sums its copy, if it has one. Collective: every rank calls it.

    Args:
        mesh: this rank's place.
        ends: the pipeline ranks with the first and the last stage.
        separate: in two steps.
    """
    pair = copies(mesh, ends) if separate else None
    if mesh.embedding is None:
        return []
    if pair is None:
        return [mesh.embedding_sum()]
    return [mesh.replicas_sum(SITE), pair]


def copies(mesh: Mesh, ends: Sequence[int]) -> Collective | None:
    """The two ranks with the copies of one replica, which hold the same rows of it; None where there is one copy, or
    none here. Collective."""
    found = None
    if len(ends) > 1:
        # Every rank creates every group, in the same order: new_group is collective over the world.
        for ranks in mesh.device.mesh[list(ends)].flatten(1).T.tolist():
            group = dist.new_group(ranks)
            if dist.get_rank() in ranks:
                found = Collective(group, len(ranks), ranks.index(dist.get_rank()), mesh.wire, SITE)
    return found
