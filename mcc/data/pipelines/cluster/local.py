"""datatrove's LocalPipelineExecutor."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import partial
from pathlib import Path
from typing import Any

from datatrove.executor.local import LocalPipelineExecutor
from datatrove.utils.logging import logger

from mcc.core.errors import MccError
from mcc.core.events import Reporter
from mcc.data.base.workers import ordered_map
from mcc.data.pipelines.cluster.runner import ClusterRunner, _Phase


class LocalExecutor(LocalPipelineExecutor):
    """LocalPipelineExecutor with our pool: datatrove's waits for ever when a worker process is killed.

    It also keeps a failed task's traceback to the task's log.
    """

    def run(self) -> None:
        """Run the tasks that are not done."""
        self.save_executor_as_json()
        for _ in ordered_map(partial(_task, self), self.get_incomplete_ranks(), self.workers):
            pass

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> Any:
        with Path(os.devnull).open("w") as quiet, redirect_stderr(quiet):
            try:
                return super()._run_for_rank(rank, local_rank, node_rank)
            finally:
                logger.remove()


def _task(executor: LocalExecutor) -> Callable[[int], None]:
    def run(rank: int) -> None:
        executor._run_for_rank(rank, 1)

    return run


class LocalRunner(ClusterRunner):
    """Shards as processes of this machine."""

    def execute(self, phases: list[_Phase], reporter: Reporter) -> None:
        for phase in phases:
            executor = LocalExecutor(
                pipeline=[phase.step],
                tasks=phase.world,
                workers=min(self.workers, phase.world),
                logging_dir=str(phase.logs),
            )
            cause = None
            with reporter.task(phase.title):
                try:
                    executor.run()
                except MccError as error:
                    cause = error
                except Exception as error:
                    cause = MccError(f"{type(error).__name__}: {error}".partition("\n")[0])
            self.complain(phase, cause)
