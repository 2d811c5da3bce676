"""What the executors have in common: the job's folder, the order of phases, failures, the report."""

from __future__ import annotations

import pickle
import time
from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Any

from datatrove.utils.logging import logger

from mcc.core.errors import MccError
from mcc.core.events import Reporter
from mcc.core.files import remove
from mcc.data.base.blocks import Source
from mcc.data.base.job import Job, Map
from mcc.data.base.step import StepReport
from mcc.data.base.work import Work, opened
from mcc.data.pipeline import ClusterConfig
from mcc.data.pipelines.cluster.phase import REPORT, PhaseStep, failures, warnings
from mcc.data.pipelines.run import MakeJob


class ClusterRunner(ABC):
    """Runs jobs through one of datatrove's executors.

    Args:
        config: what the machines are asked for.
        tasks: shards of a `Map` phase; they change no byte of the outputs.
        workers: shards at once.
    """

    def __init__(self, config: ClusterConfig, tasks: int, workers: int) -> None:
        self.config, self.tasks, self.workers = config, tasks, workers

    def run(self, make: MakeJob, reporter: Reporter) -> StepReport:
        """Do what is left of a job.

        Raises:
            MccError: a shard failed; what others did is kept for the same command.
        """
        started = time.perf_counter()
        job = make()
        logger.remove()  # datatrove's log is in files; what the user must know is told by exceptions
        with opened(job.output, [job.fingerprint(), self.tasks], keep=True) as work:
            remove(work.folder / "failed")
            if work.is_stale(job.outputs):
                work.clear()
            phases = [
                _Phase(job, index, make, work, self.tasks)
                for index in range(len(job.phases) + 1)
            ]  # fmt: skip
            try:
                self.execute(phases, reporter)
            finally:
                for text in warnings(work.folder):
                    reporter.warn(text)
            report: StepReport = pickle.loads((work.folder / REPORT).read_bytes())
        return replace(report, seconds=round(time.perf_counter() - started, 3))

    @abstractmethod
    def execute(self, phases: list[_Phase], reporter: Reporter) -> None:
        """Do all phases in order.

        Raises:
            MccError: one failed.
        """

    def close(self) -> None:  # noqa: B027 - most hold nothing
        """Let go of what the runner holds."""

    def complain(self, phase: _Phase, cause: MccError | None = None) -> None:
        """Raise what a shard of the phase failed with, if one did or is not done.

        Raises:
            MccError: with the shard's own message.
        """
        for index, rank, error in failures(phase.folder):
            if index == phase.index:
                where = f"shard {rank} of {phase.world}: " if phase.world > 1 else ""
                error.what = f"{where}{error.what}"
                error.args = (error.what,)
                raise error
        lost = phase.unfinished()
        if lost:
            why = f": {cause.what}" if cause is not None else ""
            raise MccError(
                f"shard {lost[0]} of {phase.world} of {phase.title} did not finish{why}",
                f"was it killed, or out of memory or time? its log: {phase.logs / 'logs' / f'task_{lost[0]:05d}.log'}; "
                "the same command goes on from what is done",
            )


class _Phase:
    """A phase of a job under way, or its end.

    Attributes:
        world: shards. `logs`: datatrove's folder.
    """

    def __init__(self, job: Job[Any], index: int, make: MakeJob, work: Work, tasks: int) -> None:
        last = index == len(job.phases)
        phase = None if last else job.phases[index]
        name = "end" if phase is None else phase.name
        self.index = index
        self.folder = work.folder.absolute()
        self.title = job.name if name == job.name else f"{job.name}: {name}"
        self.logs = self.folder / "datatrove" / f"{index}-{name}"
        self.world = 1
        if isinstance(phase, Map):
            # A source that depends on earlier phases has its units later.
            self.world = min(tasks, max(phase.source.units(), 1)) if isinstance(phase.source, Source) else tasks
        self.step = PhaseStep(make, index, self.title, self.folder, Path.cwd())

    def unfinished(self) -> list[int]:
        """The shards that are not done."""
        return [rank for rank in range(self.world) if not (self.logs / "completions" / f"{rank:05d}").exists()]
