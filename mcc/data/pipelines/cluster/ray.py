"""datatrove's RayPipelineExecutor, on a running cluster or on one that is started on this machine and ended again."""

from __future__ import annotations

import os
import tempfile
import threading
from pathlib import Path
from typing import Any

from datatrove.executor.ray import RayPipelineExecutor

from mcc.core.errors import MccError
from mcc.core.events import Reporter
from mcc.core.files import remove
from mcc.data.pipeline import ClusterConfig
from mcc.data.pipelines.cluster.phase import Watch
from mcc.data.pipelines.cluster.runner import ClusterRunner, _Phase

# Shards exchange files, not objects.
_OBJECT_STORE_BYTES = 100 << 20
_LOOK_S = 2.0


class RayRunner(ClusterRunner):
    """Shards as actors of Ray."""

    def __init__(self, config: ClusterConfig, tasks: int, workers: int) -> None:
        super().__init__(config, tasks, workers)
        self._folder: Path | None = None
        self._started = False

    def execute(self, phases: list[_Phase], reporter: Reporter) -> None:
        self._start()
        for phase in phases:
            executor = RayPipelineExecutor(
                pipeline=[phase.step],
                tasks=phase.world,
                workers=min(self.workers, phase.world),
                logging_dir=str(phase.logs),
                cpus_per_task=self.config.cpus_per_task,
                mem_per_cpu_gb=self.config.mem_per_cpu_gb,
                time=_seconds(self.config.time),
            )
            with reporter.task(phase.title):
                cause = _run_watched(executor, Watch(phase.folder))
            self.complain(phase, cause)

    def _start(self) -> None:
        if self._started:
            return
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing is sent anywhere
        import ray

        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
        try:
            if self.config.address is not None:
                ray.init(address=self.config.address, **quiet)
            else:
                # Sockets have short paths.
                self._folder = Path(tempfile.mkdtemp(prefix="mcc-ray-"))
                ray.init(
                    num_cpus=self.workers * self.config.cpus_per_task,
                    include_dashboard=False,
                    object_store_memory=_OBJECT_STORE_BYTES,
                    _temp_dir=str(self._folder),
                    _node_ip_address="127.0.0.1",
                    **quiet,
                )
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise MccError(f"Ray does not start: {reason}", "try --workers N without --executor") from error
        self._started = True
        self._check_resources()

    def _check_resources(self) -> None:
        """A shard that asks for more than there is would wait for ever."""
        import ray

        has = ray.cluster_resources()
        cpus, memory = self.config.cpus_per_task, self.config.cpus_per_task * self.config.mem_per_cpu_gb
        if has.get("CPU", 0) < cpus:
            raise MccError(f"a shard asks for {cpus} cores, Ray has {has.get('CPU', 0):.0f}", "cluster.cpus_per_task")
        if has.get("memory", 0) < memory * 2**30:
            raise MccError(
                f"a shard asks for {memory:g} GB, Ray has {has.get('memory', 0) / 2**30:.1f}",
                "lower mem_per_cpu_gb in [cluster]",
            )

    def close(self) -> None:
        if self._started:
            import ray

            ray.shutdown()
            self._started = False
        if self._folder is not None:
            remove(self._folder)


def _run_watched(executor: RayPipelineExecutor, watch: Watch) -> MccError | None:
    """Run all tasks; say why not. Ray does not notice when the process that an actor starts for a task is killed."""
    causes: list[MccError] = []

    def run() -> None:
        try:
            executor.run()
        except Exception as error:
            causes.append(MccError(f"{type(error).__name__}: {error}".partition("\n")[0]))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_LOOK_S)
        if watch.lost():
            return MccError("a process died")
    return causes[0] if causes else None


def _seconds(limit: str) -> int:
    """Slurm's `HH:MM:SS` or `D-HH:MM:SS`.

    >>> _seconds("01:30:00"), _seconds("1-00:00:00"), _seconds("10")
    (5400, 86400, 600)
    """
    days, _, rest = limit.rpartition("-")
    try:
        parts = [int(part) for part in rest.split(":")]
        hours, minutes, seconds = {1: (0, parts[0], 0), 2: (0, *parts[:2]), 3: tuple(parts[:3])}[len(parts)]
        if days:
            hours, minutes, seconds = (*parts, 0, 0, 0)[:3]
        return int(days or 0) * 86400 + hours * 3600 + minutes * 60 + seconds
    except (ValueError, KeyError):
        raise MccError(f"cluster.time = {limit!r} is no time", "for example 24:00:00") from None
