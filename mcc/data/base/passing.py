"""Bytes that a process hands on to another in a file.

The files are used again and again: to write over what a file holds costs a tenth of filling new pages of memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path

from mcc.core.files import remove

_COPY_BYTES = 1 << 18
_FREE = "free-"


class Passing:
    """The folder with such files; picklable. A file has one owner at a time: who renamed it.

    Args:
        folder: of one run. A process that outlived the run before may still have files of that one open.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._home = os.getpid()
        self._numbers = count()

    @property
    def away(self) -> bool:
        """Whether this is another process than the one that reads."""
        return os.getpid() != self._home

    def begin(self) -> None:
        """Make the folder, empty."""
        remove(self.folder)
        self.folder.mkdir(parents=True)

    def end(self) -> None:
        """Delete it."""
        remove(self.folder)

    def write(self, pieces: Iterable[bytes]) -> Path:
        """The file that holds `pieces` now, with something behind them perhaps."""
        path = self.folder / f"{os.getpid()}-{next(self._numbers)}"
        with os.fdopen(os.open(self._taken(path), os.O_WRONLY | os.O_CREAT, 0o644), "wb") as file:
            file.writelines(pieces)
        return path

    def read(self, path: Path, sizes: Iterable[tuple[str, int]]) -> Iterator[tuple[str, memoryview]]:
        """(name, some bytes) of a file of `write`, for as many bytes as each name has, then the file is free. The bytes
        are valid until the next are asked for.

        Raises:
            OSError: the file is cut off.
        """
        buffer = memoryview(bytearray(_COPY_BYTES))
        with path.open("rb", buffering=0) as file:
            for name, left in sizes:
                while left > 0:
                    size = file.readinto(buffer[:left])
                    if not size:
                        raise OSError(f"{path} is cut off")
                    yield name, buffer[:size]
                    left -= size
        path.rename(path.with_name(f"{_FREE}{path.name}"))

    def _taken(self, path: Path) -> Path:
        for free in self.folder.glob(f"{_FREE}*"):
            try:
                return free.rename(path)
            except FileNotFoundError:  # another process was faster
                continue
        return path
