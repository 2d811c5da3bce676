"""datatrove's SlurmPipelineExecutor: all phases of a job are sent off at once, each depending on the one before."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from datatrove.executor.slurm import SlurmPipelineExecutor

from mcc.core.errors import MccError
from mcc.core.events import Reporter
from mcc.core.files import write_text
from mcc.data.pipelines.cluster.phase import failures
from mcc.data.pipelines.cluster.runner import ClusterRunner, _Phase

_JOBS = "slurm.json"
# A job that is gone may have written files that this machine does not see yet.
_GRACE_LOOKS = 3


class SlurmExecutor(SlurmPipelineExecutor):
    """SlurmPipelineExecutor for clusters without partitions too, and without a job to add up statistics."""

    def get_sbatch_args(self, max_array: int = 1) -> dict[str, Any]:
        """The directives of the script."""
        found = super().get_sbatch_args(max_array)
        return {name: value for name, value in found.items() if value or name == "requeue"}

    def launch_merge_stats(self) -> None:
        """Our reports have the counts."""


class SlurmRunner(ClusterRunner):
    """Shards as jobs of a Slurm array; waits until they are done."""

    def execute(self, phases: list[_Phase], reporter: Reporter) -> None:
        folder = phases[0].folder
        jobs = folder / _JOBS
        if jobs.exists():  # a killed command's jobs may still be under way
            self._wait(json.loads(jobs.read_text(encoding="utf-8")), phases, reporter)
        if any(phase.unfinished() for phase in phases):
            ids = self._launch(phases)
            write_text(jobs, json.dumps(ids))
            try:
                self._wait(ids, phases, reporter)
            except BaseException:
                _call("scancel", *ids)
                raise
        for phase in phases:
            self.complain(phase)

    def _launch(self, phases: list[_Phase]) -> list[str]:
        executors: list[SlurmExecutor] = []
        for phase in phases:
            executors.append(self._executor(phase, executors[-1] if executors else None))
        try:
            executors[-1].run()
        except FileNotFoundError as error:
            raise MccError("no sbatch on this machine", "run this where Slurm's commands are") from error
        except subprocess.CalledProcessError as error:
            raise MccError(f"sbatch failed with exit code {error.returncode}", "see its message above") from error
        return [str(executor.job_id) for executor in executors if executor.job_id not in (None, -1)]

    def _executor(self, phase: _Phase, before: SlurmExecutor | None) -> SlurmExecutor:
        config = self.config
        here = f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH"
        return SlurmExecutor(
            pipeline=[phase.step],
            tasks=phase.world,
            time=config.time,
            partition=config.partition,
            qos=config.qos,
            cpus_per_task=config.cpus_per_task,
            workers=self.workers,
            job_name=f"mcc-{phase.logs.name}",
            env_command=config.env_command or here,
            logging_dir=str(phase.logs),
            max_array_size=config.max_array_size,
            depends=before,
            sbatch_args={
                # Slurm takes whole numbers only. What depends on a failed job must not wait for ever.
                "mem-per-cpu": f"{round(config.mem_per_cpu_gb * 1024)}M",
                "chdir": str(Path.cwd()),
                "kill-on-invalid-dep": "yes",
                **config.sbatch_args,
            },
        )

    def _wait(self, ids: list[str], phases: list[_Phase], reporter: Reporter) -> None:
        """Until all is done, a shard failed, or the jobs are gone."""
        shards = sum(phase.world for phase in phases)
        looks = done = 0
        with reporter.task(phases[0].title, total=shards, unit="shards") as task:
            while True:
                now = shards - sum(len(phase.unfinished()) for phase in phases)
                task.advance(now - done)
                done = now
                if done == shards or any(failures(phases[0].folder)):
                    return
                looks = 0 if _alive(ids) else looks + 1
                if looks > _GRACE_LOOKS:
                    return
                time.sleep(self.config.poll_s)


def _alive(ids: list[str]) -> bool:
    """Whether any of the jobs waits or runs. Without squeue only files tell when all is done."""
    answer = _call("squeue", "--noheader", "--format=%i", f"--jobs={','.join(ids)}") if ids else ""
    return answer is None or bool(answer.strip())


def _call(*words: str) -> str | None:
    """What a command of Slurm says; nothing when it fails (all jobs are forgotten), None when it does not exist."""
    if not words[1:]:
        return ""
    try:
        return subprocess.run(words, capture_output=True, text=True, check=False, timeout=60).stdout
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
