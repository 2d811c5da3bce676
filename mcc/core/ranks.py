"""The one place that reads which rank this process is: torchrun's variables, or Slurm's."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from mcc.core.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process among all: `rank` of `world_size`, `local_rank` on this machine."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0


def from_environment(env: Mapping[str, str] | None = None) -> Ranks | None:
    """The ranks that torchrun or Slurm set, or None when this process was started alone.

    >>> from_environment({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"})
    Ranks(rank=3, world_size=8, local_rank=1)
    >>> from_environment({}) is None
    True
    """
    env = os.environ if env is None else env
    for rank, world, local in (("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")):
        if rank in env and world in env:
            try:
                found = Ranks(rank=int(env[rank]), world_size=int(env[world]), local_rank=int(env.get(local, "0")))
            except ValueError as error:
                raise UsageError(f"{rank}={env[rank]!r}, {world}={env[world]!r} are not numbers") from error
            # An interactive Slurm shell is one task: that is a process started alone.
            return None if rank == "SLURM_PROCID" and found.world_size == 1 else found
    return None


def restart_count(env: Mapping[str, str] | None = None) -> int:
    """How often torch's elastic launcher has started the ranks again after a failure; 0 without one."""
    env = os.environ if env is None else env
    count = env.get("TORCHELASTIC_RESTART_COUNT", "0")
    return int(count) if count.isdigit() else 0
