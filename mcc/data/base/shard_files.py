"""The files of one shard of a phase: every process puts what its blocks gave at its place in them.

A process keeps what a block gave until all blocks before it are finished, so that its place is known. So the filling of
new pages of memory, which may cost more than the step's own work, is spread over all processes, and only numbers go
from one to another.
"""

from __future__ import annotations

import json
import os
from collections import Counter, deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, overload

from mcc.data.base.block import Block
from mcc.data.base.memory import keep_freed
from mcc.data.base.part import Part
from mcc.data.base.work import JOURNAL, Work, last_entry

# So many bytes at a time are made ready: Linux asks for no more at once by default.
_READY_BYTES = 1 << 17


@dataclass(frozen=True)
class Given:
    """What a block gave, in numbers.

    Args:
        unit, part, size: of the block.
        sizes: bytes for each stream.
        counts: to add to the totals.
        warnings: lines for the user.
    """

    unit: int
    part: int
    size: int
    sizes: dict[str, int]
    counts: dict[str, int]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Place:
    """Where in the files that belongs: stream -> offset in bytes."""

    unit: int
    part: int
    offsets: dict[str, int]


class BlockWorker:
    """What a process does in a phase: it works on blocks, and writes what they gave when it is told the place.

    Args:
        apply: for one block.
        endings: stream -> how it is compressed, see `Part`.
        folder: with the files of the shard.
    """

    def __init__(self, apply: Callable[[Block, Part], None], endings: dict[str, str], folder: Path) -> None:
        keep_freed()
        self._apply, self._endings, self._folder = apply, endings, folder
        self._kept: dict[tuple[int, int], dict[str, bytes]] = {}

    @overload
    def __call__(self, item: Block) -> Given: ...
    @overload
    def __call__(self, item: Place) -> None: ...
    def __call__(self, item: Block | Place) -> Given | None:
        """Work on a block, or write what an earlier one gave."""
        if isinstance(item, Place):
            self._write(item)
            return None
        part = Part(self._endings)
        self._apply(item, part)
        done = part.done()
        sizes = {name: len(raw) for name, raw in done.streams.items() if raw}
        if sizes:
            self._kept[item.unit, item.part] = done.streams
        return Given(item.unit, item.part, item.size, sizes, done.counts, done.warnings)

    def _write(self, place: Place) -> None:
        streams = self._kept.pop((place.unit, place.part))
        for name, offset in place.offsets.items():
            with (self._folder / name).open("r+b", buffering=0) as file:
                put(file, offset, streams[name])


def put(file: IO[bytes], offset: int, raw: bytes) -> None:
    """Write `raw` at a place of an unbuffered file, also behind its end.

    While a process writes, others wait that write to the same file; not while pages are made ready. So the file is made
    long enough and its new pages are asked for, and then there is only copying left to wait for.
    """
    if hasattr(os, "posix_fadvise") and len(raw) > _READY_BYTES:
        os.pwrite(file.fileno(), raw[-1:], offset + len(raw) - 1)
        for at in range(offset, offset + len(raw), _READY_BYTES):
            os.posix_fadvise(file.fileno(), at, _READY_BYTES, os.POSIX_FADV_WILLNEED)
    file.seek(offset)
    left = memoryview(raw)
    while left:
        left = left[file.write(left) :]


class ShardFiles:
    """The files and their journal, as the process sees them that hands out the blocks.

    Attributes:
        last: place of the last whole block, None at the start.
        size: bytes of the input that are done.
        written: stream -> bytes up to which all blocks are in the files.
    """

    def __init__(self, work: Work, phase: str, rank: int, streams: tuple[str, ...]) -> None:
        self._folder = work.shard(phase, rank)
        self._streams = streams
        self.last: tuple[int, int] | None = None
        self.size = 0
        self.written: Mapping[str, int] = dict.fromkeys(streams, 0)
        self._counts: Counter[str] = Counter()
        self._ends: dict[str, int] = {}
        # Blocks whose bytes have a place, and are being written.
        self._pending: deque[tuple[Given, dict[str, int], Future[Any] | None]] = deque()

    def __enter__(self) -> ShardFiles:
        self._folder.mkdir(parents=True, exist_ok=True)
        journal = self._folder / JOURNAL
        entry = last_entry(journal)
        sizes = entry["sizes"]
        # After a power cut a file may be shorter than the journal says.
        present = {name: path.stat().st_size for name in self._streams if (path := self._folder / name).exists()}
        if any(present.get(name, 0) < sizes.get(name, 0) for name in self._streams) or not entry["place"]:
            entry = {"place": None, "sizes": {}, "counts": {}, "size": 0}
            journal.unlink(missing_ok=True)
        self.last = tuple(entry["place"]) if entry["place"] else None
        self.size = entry["size"]
        self._counts.update(entry["counts"])
        self._ends = {name: entry["sizes"].get(name, 0) for name in self._streams}
        self.written = dict(self._ends)
        for name, size in self._ends.items():
            with (self._folder / name).open("ab") as file:
                # Not without need: what was cut to nothing is written to the disk when it is closed.
                if size < present.get(name, 0):
                    file.truncate(size)
        self._journal = journal.open("ab", buffering=0)
        return self

    def add(self, given: Given, again: Callable[[Place], Future[Any]]) -> None:
        """Have what the next block gave written by the process that has it, and note the blocks that are written.

        Raises:
            OSError: it cannot be written.
        """
        future = None
        if given.sizes:
            future = again(Place(given.unit, given.part, {name: self._ends[name] for name in given.sizes}))
            for name, size in given.sizes.items():
                self._ends[name] += size
        self._pending.append((given, dict(self._ends), future))
        while self._pending and (self._pending[0][2] is None or self._pending[0][2].done()):
            self._settle()

    def end(self) -> None:
        """Wait for all that is being written, and say that the shard is finished."""
        while self._pending:
            self._settle()
        self._note(True)

    def _settle(self) -> None:
        given, ends, future = self._pending.popleft()
        if future is not None:
            future.result()
        self._counts.update(given.counts)
        self.size += given.size
        self.last = (given.unit, given.part)
        self.written = ends
        self._note(False)

    def _note(self, end: bool) -> None:
        entry = {"place": self.last, "sizes": self.written, "counts": self._counts, "size": self.size, "end": end}
        self._journal.write(json.dumps(entry).encode() + b"\n")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._journal.close()
