"""The one place that reads which rank this process is: torchrun's variables, or those of a Slurm step."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from mcc.core.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process among all: `rank` of `world_size`, `local_rank` of the `local_world_size` on this machine."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1


def from_environment(env: Mapping[str, str] | None = None) -> Ranks | None:
    """The ranks that torchrun or `srun` set, or None when this process was started alone.

    A Slurm batch script is no rank: it has SLURM_PROCID as well, but only what `srun` starts is a step with tasks.

    >>> from_environment({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"})
    Ranks(rank=3, world_size=8, local_rank=1, local_world_size=4)
    >>> from_environment({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}) is None
    True

    Raises:
        UsageError: the variables are no numbers.
    """
    env = os.environ if env is None else env
    if "RANK" in env and "WORLD_SIZE" in env:
        world = _number(env, "WORLD_SIZE")
        return Ranks(
            rank=_number(env, "RANK"),
            world_size=world,
            local_rank=_number(env, "LOCAL_RANK", 0),
            local_world_size=_number(env, "LOCAL_WORLD_SIZE", world),
        )
    if "SLURM_PROCID" in env and "SLURM_STEP_NUM_TASKS" in env:
        world = _number(env, "SLURM_STEP_NUM_TASKS")
        tasks, node = _tasks(env.get("SLURM_STEP_TASKS_PER_NODE", "")), _number(env, "SLURM_NODEID", 0)
        found = Ranks(
            rank=_number(env, "SLURM_PROCID"),
            world_size=world,
            local_rank=_number(env, "SLURM_LOCALID", 0),
            local_world_size=tasks[node] if node < len(tasks) else world,
        )
        return found if world > 1 else None  # an interactive Slurm shell is one task: started alone
    return None


def restart_count(env: Mapping[str, str] | None = None) -> int:
    """How often torch's elastic launcher has started the ranks again after a failure; 0 without one."""
    env = os.environ if env is None else env
    count = env.get("TORCHELASTIC_RESTART_COUNT", "0")
    return int(count) if count.isdigit() else 0


def set_restart_count(count: int) -> None:
    """Correct the launcher's count: on several machines each of its agents counts what it saw itself."""
    os.environ["TORCHELASTIC_RESTART_COUNT"] = str(count)


def restarts_elsewhere(env: Mapping[str, str] | None = None) -> bool:
    """Whether agents on other machines may start the ranks again, so that `restart_count` may be too small here."""
    env = os.environ if env is None else env
    return env.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0" and env.get("GROUP_WORLD_SIZE", "1") != "1"


def _number(env: Mapping[str, str], name: str, default: int | None = None) -> int:
    if default is not None and name not in env:
        return default
    try:
        return int(env[name])
    except ValueError as error:
        raise UsageError(f"{name}={env[name]!r} is not a number") from error


def _tasks(per_node: str) -> list[int]:
    """Tasks of every node, as Slurm writes them.

    >>> _tasks("8(x2),3")
    [8, 8, 3]
    """
    found = re.findall(r"(\d+)(?:\(x(\d+)\))?", per_node)
    return [int(tasks) for tasks, nodes in found for _ in range(int(nodes or 1))]
