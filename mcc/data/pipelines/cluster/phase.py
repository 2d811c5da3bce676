"""One shard of one phase as a step of datatrove's pipelines: what the other machines do."""

from __future__ import annotations

import fcntl
import json
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datatrove.pipeline.base import PipelineStep

from mcc.core.errors import MccError
from mcc.core.events import Silent
from mcc.core.files import atomic_path, remove, write_text
from mcc.data.base.job import Job, Map, finish, run_phase
from mcc.data.base.work import Work

REPORT = "report.pickle"
_FAILED, _WARNED, _LOCKS, _ALIVE = "failed", "warned", "locks", "alive"
_WARNINGS = 20
# A shard under way touches its file so often, and is given up when it has not done so for so long.
_BEAT_S = 5.0
_SILENT_S = 90.0


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
            with _locked(self.folder / _LOCKS / name, rank), _beating(self.folder / _ALIVE / name):
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
            run_phase(job.phases[self.index], work, job.name, None, notes, rank, world)
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


@contextmanager
def _beating(path: Path) -> Iterator[None]:
    """Touch a file from time to time."""
    path.parent.mkdir(exist_ok=True)
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(_BEAT_S):
            path.touch()

    path.touch()
    threading.Thread(target=beat, daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        path.unlink(missing_ok=True)


class Watch:
    """Sees shards that neither ended nor say that they are alive: their process was killed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / _ALIVE
        remove(self._folder)
        self._seen: dict[str, tuple[int, float]] = {}

    def lost(self, now: float | None = None) -> bool:
        """Whether there is one; `now` in seconds of `time.monotonic`. Clocks of machines are not compared."""
        now = time.monotonic() if now is None else now
        for path in self._folder.glob("*"):
            try:
                beat = path.stat().st_mtime_ns
            except FileNotFoundError:
                continue
            if self._seen.get(path.name, (0, 0.0))[0] != beat:
                self._seen[path.name] = (beat, now)
            elif now - self._seen[path.name][1] > _SILENT_S:
                return True
        return False


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
