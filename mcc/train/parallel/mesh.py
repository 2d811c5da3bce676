"""The mesh of ranks: pipeline x data x context x tensor, tensor fastest: the chattiest axis stays on one machine."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from mcc.train.compress.collective import Collective
from mcc.train.compress.wire import Wire

AXES = ("pp", "dp", "cp", "tp")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Mesh:
    """This rank's place, and its process groups.

    Attributes:
        device: torch's mesh with the axes (pp, dp, cp, tp).
        compute: where this rank's tensors are.
        replicas: the ranks that hold the same parameters, data x context parallel: their gradients are averaged.
        model: all ranks of one replica and one slice of the tokens, pipeline x tensor parallel.
        embedding: the replicas of the first and of the last pipeline stage at this rank's tensor-parallel place, or
            None in between: they hold the tied embedding.
    """

    device: DeviceMesh
    compute: torch.device
    tp: int
    pp: int
    dp: int
    cp: int
    tp_rank: int
    pp_rank: int
    dp_rank: int
    cp_rank: int
    replicas: dist.ProcessGroup
    model: dist.ProcessGroup
    embedding: dist.ProcessGroup | None
    wire: Wire

    @property
    def place(self) -> str:
        """This rank's place in words, for messages."""
        return f"pp {self.pp_rank}, dp {self.dp_rank}, cp {self.cp_rank}, tp {self.tp_rank}"

    @property
    def replica(self) -> int:
        """This rank's number among those that hold the same parameters."""
        return self.dp_rank * self.cp + self.cp_rank

    def collective(self, axis: str, site: str) -> Collective:
        """The collectives of one axis (`tp`, `pp`, `dp`, `cp`), counted under `site`."""
        size, rank = getattr(self, axis), getattr(self, f"{axis}_rank")
        return Collective(self.device.get_group(axis), size, rank, self.wire, site)

    def replicas_sum(self, site: str) -> Collective:
        """The collectives of the ranks that hold the same parameters, counted under `site`."""
        return Collective(self.replicas, self.dp * self.cp, self.replica, self.wire, site)

    def embedding_sum(self) -> Collective:
        """The sum over both copies of a tied embedding and all replicas, counted under `embedding`."""
        assert self.embedding is not None
        size = dist.get_world_size(self.embedding)
        return Collective(self.embedding, size, dist.get_rank(self.embedding), self.wire, "embedding")

    def stage_rank(self, pp_rank: int) -> int:
        """Global rank of pipeline rank `pp_rank` at this rank's place on the other axes."""
        return int(self.device.mesh[pp_rank, self.dp_rank, self.cp_rank, self.tp_rank])


def build_mesh(
    tp: int, pp: int, dp: int, cp: int = 1, ends: tuple[int, ...] | None = None, compute: torch.device = CPU
) -> Mesh:
    """The mesh over the default process group, whose size is tp*pp*dp*cp. Collective: every rank calls it.

    Args:
        tp, pp, dp, cp: ranks of each axis.
        ends: the pipeline ranks with the first and the last stage; the first and the last rank when left out.
        compute: where this rank's tensors are.
    """
    # The groups carry tensors of the GPU all the same: they are made as the default group was.
    device = init_device_mesh("cpu", (pp, dp, cp, tp), mesh_dim_names=AXES)
    pp_rank, dp_rank, cp_rank, tp_rank = device.get_coordinate()
    ends = (0, pp - 1) if ends is None else ends
    ranks = device.mesh
    replicas = model = embedding = None
    # Every rank creates every group, in the same order: new_group is collective over the world.
    for stage in range(pp):
        for shard in range(tp):
            group = dist.new_group(ranks[stage, :, :, shard].flatten().tolist())
            replicas = group if (stage, shard) == (pp_rank, tp_rank) else replicas
    for replica in range(dp):
        for part in range(cp):
            group = dist.new_group(ranks[:, replica, part, :].flatten().tolist())
            model = group if (replica, part) == (dp_rank, cp_rank) else model
    for shard in range(tp):
        group = dist.new_group(sorted({rank for end in ends for rank in ranks[end, :, :, shard].flatten().tolist()}))
        embedding = group if shard == tp_rank and pp_rank in ends else embedding
    assert replicas is not None and model is not None
    return Mesh(
        device, compute, tp, pp, dp, cp, tp_rank, pp_rank, dp_rank, cp_rank, replicas, model, embedding, Wire()
    )  # fmt: skip
