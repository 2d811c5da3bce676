"""The mesh of ranks: pipeline x data x tensor, tensor fastest, so that the chattiest axis stays on one machine."""

from __future__ import annotations

from dataclasses import dataclass

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from mcc.train.compress.collective import Collective
from mcc.train.compress.wire import Wire


@dataclass(frozen=True)
class Mesh:
    """This rank's place, and its process groups.

    `device` is the torch mesh with axes (pp, dp, tp). `model` joins the ranks of one replica; `embedding` joins the
    first and the last stages of all replicas at this rank's tensor-parallel place, or is None in between.
    """

    device: DeviceMesh
    tp: int
    pp: int
    dp: int
    tp_rank: int
    pp_rank: int
    dp_rank: int
    model: dist.ProcessGroup
    embedding: dist.ProcessGroup | None
    wire: Wire

    @property
    def first(self) -> bool:
        """Whether this rank is on the first pipeline stage."""
        return self.pp_rank == 0

    @property
    def last(self) -> bool:
        """Whether this rank is on the last pipeline stage."""
        return self.pp_rank == self.pp - 1

    @property
    def place(self) -> str:
        """This rank's place in words, for messages."""
        return f"pp {self.pp_rank}, dp {self.dp_rank}, tp {self.tp_rank}"

    def collective(self, axis: str, site: str) -> Collective:
        """The collectives of one axis (`tp`, `pp`, `dp`), counted under `site`."""
        size, rank = getattr(self, axis), getattr(self, f"{axis}_rank")
        return Collective(self.device.get_group(axis), size, rank, self.wire, site)

    def embedding_sum(self) -> Collective:
        """The sum over both copies of a tied embedding and all replicas, counted under `embedding`."""
        assert self.embedding is not None
        size = dist.get_world_size(self.embedding)
        return Collective(self.embedding, size, dist.get_rank(self.embedding), self.wire, "embedding")

    def stage_rank(self, stage: int) -> int:
        """Global rank of pipeline stage `stage` at this rank's data- and tensor-parallel place."""
        return int(self.device.mesh[stage, self.dp_rank, self.tp_rank])

    def layers(self, num_layers: int) -> range:
        """The layers of this rank's stage: even, the first stages taking what is left over."""
        share, rest = divmod(num_layers, self.pp)
        start = self.pp_rank * share + min(self.pp_rank, rest)
        return range(start, start + share + (self.pp_rank < rest))


def build_mesh(tp: int, pp: int, dp: int, device_type: str = "cpu") -> Mesh:
    """The mesh over the default process group, whose size is tp*pp*dp. Collective: every rank calls it."""
    device = init_device_mesh(device_type, (pp, dp, tp), mesh_dim_names=("pp", "dp", "tp"))
    pp_rank, dp_rank, tp_rank = device.get_coordinate()
    ranks = device.mesh
    model = embedding = None
    # Every rank creates every group, in the same order: new_group is collective over the world.
    for replica in range(dp):
        group = dist.new_group(ranks[:, replica, :].flatten().tolist())
        model = group if replica == dp_rank else model
    for shard in range(tp):
        ends = sorted({*ranks[0, :, shard].tolist(), *ranks[-1, :, shard].tolist()})
        group = dist.new_group(ends)
        embedding = group if shard == tp_rank and pp_rank in (0, pp - 1) else embedding
    assert model is not None
    return Mesh(device, tp, pp, dp, tp_rank, pp_rank, dp_rank, model, embedding, Wire())
