"""Rows of bytes in a file, for what is more than memory holds: read ahead and written behind by a thread of its own.

The thread does one thing after the other in the order in which it was asked, and everything else happens in the thread
that trains. So a row that is read comes after its writing; a row that waits to be written is read from where it waits;
and a row that was read ahead is forgotten when it is written. Whatever was written last is what is read.

The file has no name: it is deleted as soon as it is open, so the system frees it when the run ends, however it ends.
It is read and written with calls, not mapped: a full disk is then an error with a message rather than a signal.
"""

# K rows asked for   W bytes of a row

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from mcc.core.errors import MccError
from mcc.train.compress.store import Rows

# Rows that wait to be written, and rows that are read ahead: this many bytes of each, or two rows at least.
_WAITING_BYTES = 64 << 20
_COPY_BYTES = 16 << 20
T = TypeVar("T")


class DiskRows(Rows):
    """Rows in a file without a name.

    Args:
        width: W.
        folder: on the disk that the file is to be on; None: the system's folder for temporary files.
    """

    def __init__(self, width: int, folder: Path | None = None) -> None:
        super().__init__(width)
        self.folder = Path(tempfile.gettempdir()) if folder is None else folder
        self.limit = max(2, _WAITING_BYTES // width)
        self._file = self._try(lambda: _nameless(self.folder))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="samples")
        self._ahead: dict[int, Future[Tensor]] = {}
        self._behind: dict[int, tuple[Future[None], Tensor]] = {}  # oldest first

    def read(self, numbers: Sequence[int]) -> Tensor:
        self.expect(numbers)
        return torch.stack([self._read(number) for number in numbers])

    def write(self, numbers: Sequence[int], rows: Tensor) -> None:
        for number, row in zip(numbers, rows, strict=True):
            self._grow(number)
            self._ahead.pop(number, None)  # asked for before this writing
            if number in self._behind:
                self._wait(number)
            elif len(self._behind) >= self.limit:
                self._wait(next(iter(self._behind)))
            own = row.clone(memory_format=torch.contiguous_format)
            self._behind[number] = self._thread.submit(_put, self._file, number, own), own

    def expect(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            if len(self._ahead) >= self.limit:
                return
            if number not in self._ahead and number not in self._behind and number < self.count:
                self._ahead[number] = self._thread.submit(_get, self._file, self.width, number)

    def blocks(self) -> Iterator[Tensor]:
        self.flush()
        yield from self._mapped(self._file)

    def snapshot(self) -> Iterator[Tensor]:
        """`blocks` as they are now whatever is written later: of a copy on the disk, freed with the last of them."""
        self.flush()
        with self._try(lambda: _nameless(self.folder)) as copy:
            self._try(lambda: _copy(self._file.fileno(), copy.fileno(), self.count * self.width))
            yield from self._mapped(copy)

    def flush(self) -> None:
        """Wait until everything is written."""
        for number in list(self._behind):
            self._wait(number)

    def close(self) -> None:
        """End the thread and free the file."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._file.close()

    def __del__(self) -> None:
        with suppress(Exception):  # not even opened, or at the interpreter's end
            self.close()

    def _read(self, number: int) -> Tensor:
        assert number < self.count, f"row {number} of {self.count}"
        if number in self._behind:
            return self._behind[number][1]
        ahead = self._ahead.pop(number, None) or self._thread.submit(_get, self._file, self.width, number)
        return self._try(ahead.result)

    def _wait(self, number: int) -> None:
        future, _ = self._behind.pop(number)
        self._try(future.result)

    def _mapped(self, file: FileIO) -> Iterator[Tensor]:
        for first in range(0, self.count, self.per_block):
            rows = min(self.per_block, self.count - first)
            yield _map(file.fileno(), first * self.width, rows * self.width).view(rows, self.width)

    def _try(self, do: Callable[[], T]) -> T:
        try:
            return do()
        except OSError as error:
            what = error.strerror or error
            raise MccError(f"samples kept in {self.folder}: {what}", "is the disk full?") from error


def _nameless(folder: Path) -> FileIO:
    """A new file that is gone when it is closed."""
    folder.mkdir(parents=True, exist_ok=True)
    file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115  (open as long as its rows are there)
    assert isinstance(file, FileIO)
    return file


def _get(file: FileIO, width: int, number: int) -> Tensor:
    """Row `number` of a file."""
    row = torch.empty(width, dtype=torch.uint8)
    view, place = memoryview(row.numpy()), number * width
    while view:
        done = os.preadv(file.fileno(), [view], place)
        if not done:
            raise OSError(0, f"the file ends before row {number}")
        view, place = view[done:], place + done
    return row


def _put(file: FileIO, number: int, row: Tensor) -> None:
    """Write row `number` of a file."""
    view, place = memoryview(row.numpy()), number * row.numel()
    while view:
        done = os.pwrite(file.fileno(), view, place)
        view, place = view[done:], place + done


def _copy(source: int, target: int, size: int) -> None:
    """Copy the first `size` bytes of a file; where the file system can, they are shared until one changes."""
    place = 0
    while place < size:
        try:
            done = os.copy_file_range(source, target, size - place, place, place)
        except (OSError, AttributeError):
            done = os.pwrite(target, os.pread(source, min(_COPY_BYTES, size - place), place), place)
        if not done:
            raise OSError(0, f"the file ends at byte {place}, before {size}")
        place += done


def _map(file: int, place: int, size: int) -> Tensor:
    """uint8[size] of a file from a byte on; what is written to it stays in memory."""
    before = place % mmap.ALLOCATIONGRANULARITY
    mapped = mmap.mmap(file, before + size, access=mmap.ACCESS_COPY, offset=place - before)
    return torch.from_numpy(np.frombuffer(mapped, np.uint8)[before:])
