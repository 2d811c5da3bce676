"""A row of numbers for every block: what one phase has counted, and a later one needs to know of the blocks before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mcc.data.base.blocks import Block
from mcc.data.base.part import Part


def write_row(out: Part, stream: str, block: Block, *numbers: int) -> None:
    """Append a block's row to a raw stream. Every block of a phase has one, with as many numbers."""
    out.write_bytes(stream, np.array([block.unit, block.part, *numbers], dtype="<i8").tobytes())


class BlockTable:
    """The rows of all blocks.

    Args:
        paths: the files of the stream (`work.parts(phase, stream)`).
        columns: names of a row's numbers.
    """

    def __init__(self, paths: Sequence[Path], columns: Sequence[str]) -> None:
        width = 2 + len(columns)
        raw = [np.fromfile(path, dtype="<i8").reshape(-1, width) for path in paths]
        rows = np.concatenate([np.zeros((0, width), dtype="<i8"), *raw])
        rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
        self._places = {(unit, part): i for i, (unit, part) in enumerate(rows[:, :2].tolist())}
        self._columns = {name: rows[:, 2 + i] for i, name in enumerate(columns)}
        self._before = {name: _before(column) for name, column in self._columns.items()}

    def of(self, block: Block, column: str) -> int:
        """A number of a block."""
        return int(self._columns[column][self._places[block.unit, block.part]])

    def before(self, block: Block, column: str) -> int:
        """The sum of a number over all blocks before one."""
        return int(self._before[column][self._places[block.unit, block.part]])


def _before(column: NDArray[np.int64]) -> NDArray[np.int64]:
    sums = np.zeros(len(column), dtype=np.int64)
    np.cumsum(column[:-1], out=sums[1:])
    return sums


def read_range(paths: Sequence[Path], start: int, count: int) -> bytes:
    """`count` bytes from `start` on of files one after the other."""
    found = []
    for path in paths:
        size = path.stat().st_size
        if start < size and count > 0:
            with path.open("rb") as file:
                file.seek(start)
                found.append(file.read(min(count, size - start)))
            count -= len(found[-1])
        start = max(start - size, 0)
    return b"".join(found)
