"""Jobs on more than one machine, through datatrove's executors: the extra `mcc[cluster]`.

A `Map` phase is an executor of as many tasks as there are shards, a `Single` phase and the end of the job one of a
single task. What a shard did is in the job's folder, which all machines must see (a shared file system): a shard that
failed is done again by the same command, from its last whole block on.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING

from mcc.core.errors import MccError, UsageError

if TYPE_CHECKING:
    from mcc.data.pipeline import ClusterConfig
    from mcc.data.pipelines.cluster.runner import ClusterRunner

EXECUTORS = ("local", "slurm", "ray")
_NEEDS = {"local": ("datatrove",), "slurm": ("datatrove",), "ray": ("datatrove", "ray")}


def make_runner(
    executor: str, config: ClusterConfig, workers: int | None = None, tasks: int | None = None
) -> ClusterRunner:
    """What runs jobs through `executor`.

    Args:
        workers: shards at once; default: one a core for local and ray, no bound for slurm.
        tasks: shards of a phase; default: `config.tasks`, else as many as `workers`.

    Raises:
        MccError: a package is missing.
    """
    missing = [name for name in _NEEDS[executor] if find_spec(name) is None]
    if missing:
        raise MccError(
            f"--executor {executor} needs the package{'s' if missing[1:] else ''} {' and '.join(missing)}",
            "pip install 'mcc[cluster]'; on one machine --workers N needs none of them",
        )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    tasks = tasks or config.tasks
    if executor == "slurm":
        from mcc.data.pipelines.cluster.slurm import SlurmRunner

        if not tasks and not workers:
            raise UsageError("--executor slurm needs the number of shards", "--tasks N, or tasks = N in [cluster]")
        return SlurmRunner(config, tasks or workers or 1, workers or -1)
    workers = workers or cores
    if executor == "ray":
        from mcc.data.pipelines.cluster.ray import RayRunner

        return RayRunner(config, tasks or workers, workers)
    from mcc.data.pipelines.cluster.local import LocalRunner

    return LocalRunner(config, tasks or workers, workers)
