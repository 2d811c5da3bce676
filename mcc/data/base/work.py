"""The hidden folder of a job under way: what its phases wrote, and a journal of the blocks that are done.

`.OUT.work/key.json` says what it belongs to. A phase has a folder, and in it one for each shard (`00000` when there is
one machine) with a file a stream and `journal`: a line of JSON a block, written when the block's bytes are in the
files, with the sizes of the files and the counts so far. What a killed run wrote behind its last line is cut off.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import mcc
from mcc.core.errors import MccError
from mcc.core.files import remove, write_text
from mcc.core.locks import LOCK, exclusive
from mcc.data.base.part import totals
from mcc.data.base.workers import WorkerDied

_KEY, JOURNAL, _PUBLISHED = "key.json", "journal", "published"


class Placed(Protocol):
    """An output, and where it comes from: a phase's stream, or a file in the folder."""

    @property
    def path(self) -> Path: ...
    @property
    def phase(self) -> str | None: ...
    @property
    def stream(self) -> str | None: ...
    @property
    def file(self) -> str | None: ...


class Work:
    """The folder of one job; picklable, so that worker processes and machines find its files.

    Attributes:
        folder: its path.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Wall time of this run."""
        return time.perf_counter() - self.started

    def path(self, name: str) -> Path:
        """A file of a `Single` phase's own."""
        folder = self.folder / "files"
        folder.mkdir(exist_ok=True)
        return folder / name

    def shard(self, phase: str, rank: int) -> Path:
        """The folder of a shard of a phase."""
        return self.folder / phase / f"{rank:05d}"

    def parts(self, phase: str, stream: str) -> list[Path]:
        """The files of a stream, in order."""
        return sorted((self.folder / phase).glob(f"*/{stream}"))

    def counts(self, phase: str) -> Counter[str]:
        """The counts of a phase, over all its shards."""
        return totals(entry["counts"] for entry in map(last_entry, sorted((self.folder / phase).glob("*/" + JOURNAL))))

    def done(self, phase: str, rank: int = 0) -> Counter[str] | None:
        """The counts of a shard when it is finished."""
        entry = last_entry(self.shard(phase, rank) / JOURNAL)
        return Counter(entry["counts"]) if entry.get("end") else None

    def set_done(self, phase: str, counts: Mapping[str, int]) -> None:
        """Say that a phase of one process is finished."""
        folder = self.shard(phase, 0)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / JOURNAL, json.dumps({"counts": dict(counts), "end": True}) + "\n")

    def set_publishing(self) -> None:
        """Say that all phases are done."""
        (self.folder / _PUBLISHED).touch()

    def set_published(self, output: Placed) -> None:
        """Say that an output has its name."""
        with (self.folder / _PUBLISHED).open("ab", buffering=0) as file:
            file.write(json.dumps(str(output.path)).encode() + b"\n")

    def is_published(self, output: Placed) -> bool:
        """Whether an output has its name, when all phases are done: what it is made of may have been moved there."""
        path = self.folder / _PUBLISHED
        if path.exists() and json.dumps(str(output.path)).encode() in path.read_bytes().splitlines():
            return True
        return not any(file.exists() for file in self.files_of(output))

    def is_stale(self, outputs: Sequence[Placed]) -> bool:
        """Whether a killed run gave outputs their names, and somebody has taken one away since."""
        if not (self.folder / _PUBLISHED).exists():
            return False
        return any(self.is_published(output) and not output.path.exists() for output in outputs)

    def clear(self) -> None:
        """Forget all that was done."""
        for found in self.folder.iterdir():
            if found.name not in (_KEY, LOCK):
                remove(found)

    def size_of(self, output: Placed) -> int:
        """Bytes that an output will have, before it is converted."""
        return sum(path.stat().st_size for path in self.files_of(output) if path.exists())

    def files_of(self, output: Placed) -> list[Path]:
        """The files whose contents, one after the other, are an output."""
        if output.file is not None:
            return [self.path(output.file)]
        assert output.phase is not None and output.stream is not None
        return self.parts(output.phase, output.stream)


@contextmanager
def opened(output: Path, key: Any, keep: bool = False) -> Iterator[Work]:
    """The folder of the job that writes `output`; what an earlier run of the same job left in it is kept.

    It is deleted when the block ends well or with an error, and stays when the process or a worker is killed.
    With `keep` it stays on an error too: of many shards one may have failed.

    Raises:
        MccError: another process writes the same output, the folder cannot be made, or the disk is full.
    """
    folder = work_path(output)
    with exclusive(folder, output, "another process", "wait for it, or choose another path"):
        prepare(folder, key)
        try:
            yield Work(folder)
        except Exception as error:
            if not keep and not isinstance(error, WorkerDied):
                remove(folder)
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                what = f"cannot write {output}: {os.strerror(error.errno).lower()}"
                raise MccError(what, "make room, or choose another output path") from error
            raise
        remove(folder)


def work_path(output: Path) -> Path:
    """Where the job that writes `output` keeps what it has done."""
    return output.with_name(f".{output.name}.work")


def prepare(folder: Path, key: Any) -> None:
    """Empty the folder unless it is this job's."""
    wanted = json.dumps([mcc.__version__, key], default=str)
    path = folder / _KEY
    if path.exists() and path.read_text(encoding="utf-8") == wanted:
        return
    for found in folder.iterdir():
        if found.name != LOCK:
            remove(found)
    write_text(path, wanted)


def last_entry(journal: Path) -> dict[str, Any]:
    """The last whole line of a journal."""
    nothing: dict[str, Any] = {"place": None, "sizes": {}, "counts": {}, "size": 0}
    if not journal.exists():
        return nothing
    with journal.open("rb") as file:
        file.seek(0, 2)
        end = file.tell()
        # Counts have few keys: the last two lines are in here.
        file.seek(max(end - (1 << 16), 0))
        lines = file.read().split(b"\n")
    for line in reversed(lines[:-1]):
        try:
            return {**nothing, **json.loads(line)}
        except json.JSONDecodeError:
            continue
    return nothing
