"""Documents read one after the other, in one process: for task files, small corpora and what must see all in order.

Steps over large corpora work on blocks of lines instead: see `mcc.data.base.blocks`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mcc.core.errors import MccError
from mcc.data.base.blocks import RecordSource
from mcc.data.base.part import Part
from mcc.data.base.records import DUMP, JSONL, PARQUET, SHOWN_BYTES, TEXT, ReadConfig, Record, parse

__all__ = ["DUMP", "JSONL", "PARQUET", "TEXT", "BadLine", "ReadConfig", "Reader", "Record", "parse"]

# Small: a document is wanted soon, not many at once.
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class BadLine:
    """A line that is no record: where (`FILE:LINE`), why, and what it began with."""

    where: str
    reason: str
    line: str


class Reader:
    """Iterates over the records of files in order.

    Args:
        inputs: `.jsonl` (`.json`, `.ndjson`) or plain `.txt`, also as `.gz`, `.bz2`, `.zst`; `.parquet`; glob patterns.
        config: what counts as a record, and how many bad lines are tolerated.

    Attributes:
        where: `FILE:LINE` of the record given last.
        bad: tolerated bad lines that nobody has taken yet; `bad_lines` counts all.

    Raises:
        MccError: a file is missing or damaged, or there are more than `max_errors` bad lines.
        UsageError: a file's ending is of no known format.
    """

    def __init__(self, inputs: Sequence[str | Path], config: ReadConfig | None = None) -> None:
        self.config = config or ReadConfig()
        self._source = RecordSource(inputs, self.config, _BLOCK_BYTES)
        self.paths = list(self._source.paths)
        self.where = ""
        self.bad: list[BadLine] = []
        self.bad_lines = 0

    def __iter__(self) -> Iterator[Record]:
        for unit in range(self._source.units()):
            for block in self._source.blocks(unit):
                for where, record in block.records(self.config, _BadLines(self)):
                    self.where = where
                    yield record

    def set_aside(self, where: str, reason: str, line: bytes) -> None:
        """Take note of a bad line.

        Raises:
            MccError: it is one too many.
        """
        self.bad_lines += 1
        if self.config.on_error == "fail" or self.bad_lines > self.config.max_errors:
            what = f"{where}: {reason}"
            if self.bad_lines > 1 and self.config.on_error == "reject":
                what += f"; that is bad line {self.bad_lines}, more than max-errors {self.config.max_errors}"
            raise MccError(what, "correct the line, or tolerate more with --max-errors N")
        self.bad.append(BadLine(where, reason, line[:SHOWN_BYTES].decode(errors="backslashreplace")))


class _BadLines(Part):
    """Gives the bad lines of a block to a reader."""

    def __init__(self, reader: Reader) -> None:
        super().__init__({})
        self._reader = reader

    def bad_line(self, where: str, reason: str, line: bytes, read: ReadConfig) -> None:
        self._reader.set_aside(where, reason, line)
