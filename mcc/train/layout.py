"""How a configuration lays its model out: the cut into stages, and the mesh of ranks."""

from __future__ import annotations

import torch
import torch.distributed as dist

from mcc.train.config import TrainConfig
from mcc.train.parallel.mesh import CPU, Mesh, build_mesh
from mcc.train.parallel.pipeline import SCHEDULES
from mcc.train.parallel.stages import Stages, cut


def stages_of(config: TrainConfig) -> Stages:
    """How the configuration cuts its model into stages.

    Raises:
        UsageError: the layers do not fit.
    """
    parallel = config.parallel
    v = SCHEDULES[parallel.schedule].v
    return cut(config.model, parallel.pp, parallel.vpp, v, parallel.stages)


def make_mesh(config: TrainConfig, compute: torch.device = CPU) -> Mesh:
    """The mesh of the configuration over the default process group, with tensors on `compute`. Collective."""
    parallel = config.parallel
    dp = parallel.replicas(dist.get_world_size())
    return build_mesh(parallel.tp, parallel.pp, dp, parallel.cp, stages_of(config).ends, compute)
