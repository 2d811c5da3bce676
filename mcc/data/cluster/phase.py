"""One shard of one phase as a step of datatrove's pipelines: what the other machines do."""

from __future__ import annotations

import fcntl
import json
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datatrove.pipeline.base import PipelineStep

from mcc.core.errors import MccError
from mcc.core.events import Silent
from mcc.core.files import atomic_path, write_text
from mcc.data.job import Job, Map, finish, run_phase
from mcc.data.work import Work

REPORT = "report.pickle"
_FAILED, _WARNED, _LOCKS = "failed", "warned", "locks"
_WARNINGS = 20


class PhaseStep(PipelineStep):
    """A phase of a job, or its end.

    Args:
        make: makes the job, on whichever machine.
        index: of the phase; the number of phases for the end: report and final names.
        folder: of the job. `cwd`: where paths start from.
    """

    type = "mcc"

    def __init__(self, make: Callable[[], Job[Any]], index: int, title: str, folder: Path, cwd: Path) -> None:
        self.name = title
        super().__init__()
        self.make, self.index, self.folder, self.cwd = make, index, folder, cwd

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        """Do what is left of a shard. What goes wrong is written down for the process that waits."""
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # one shard, one core
        notes = _Notes()
        name = shard_name(self.index, rank)
        try:
            os.chdir(self.cwd)
            with _locked(self.folder / _LOCKS / name, rank):
                self._run(notes, rank, world_size)
        except Exception as error:
            _write_failure(self.folder, name, error)
            raise
        if notes.warnings:
            path = self.folder / _WARNED / f"{name}.json"
            path.parent.mkdir(exist_ok=True)
            write_text(path, json.dumps(notes.warnings))

    def _run(self, notes: Silent, rank: int, world: int) -> None:
        work = Work(self.folder.absolute())
        job = self.make()
        if self.index:
            before = job.phases[self.index - 1]
            if isinstance(before, Map):
                before.blocks_of(work).check(work.counts(before.name))
        if self.index < len(job.phases):
            run_phase(job.phases[self.index], work, job.name, 1, notes, rank, world)
            return
        report = finish(job, work, notes)
        with atomic_path(self.folder / REPORT) as temporary:
            temporary.write_bytes(pickle.dumps(report))


class _Notes(Silent):
    """Keeps warnings; there is nobody to show them to here."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        if len(self.warnings) < _WARNINGS:
            self.warnings.append(text)


def shard_name(index: int, rank: int) -> str:
    return f"{index}-{rank:05d}"


@contextmanager
def _locked(path: Path, rank: int) -> Iterator[None]:
    """A shard that an earlier, killed command sent off may still be under way."""
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise MccError(f"shard {rank} is still worked on by an earlier run", "wait for it, or end it") from None
        yield


def _write_failure(folder: Path, name: str, error: Exception) -> None:
    if not isinstance(error, MccError):
        error = MccError(f"{type(error).__name__}: {error}".partition("\n")[0], "its log has the whole story")
    path = folder / _FAILED / f"{name}.pickle"
    path.parent.mkdir(exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_bytes(pickle.dumps(error))


def failures(folder: Path) -> Iterator[tuple[int, int, MccError]]:
    """(phase, rank, error) of every shard that failed."""
    for path in sorted((folder / _FAILED).glob("*.pickle")):
        index, rank = path.stem.split("-")
        yield int(index), int(rank), pickle.loads(path.read_bytes())


def warnings(folder: Path) -> Iterator[str]:
    """What shards wanted to say."""
    for path in sorted((folder / _WARNED).glob("*.json")):
        yield from json.loads(path.read_text(encoding="utf-8"))
        path.unlink()
