"""Blocks of Parquet files: a unit a row group, a row's number, from 1, as its line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from mcc.core.errors import MccError
from mcc.data.base.block import Block, Problem
from mcc.data.base.records import Record

_ROWS = 256


class ParquetFile:
    """A Parquet file.

    Args:
        path: the file.
        block_bytes: of JSON in a block, about.

    Raises:
        MccError: it is no Parquet file.
    """

    def __init__(self, path: Path, block_bytes: int) -> None:
        self.path = path
        self.block_bytes = block_bytes
        self._groups: int = _opened(path).metadata.num_row_groups

    def units(self) -> int:
        """One a row group."""
        return max(self._groups, 1)

    def blocks(self, unit: int, inner: int) -> Iterator[Block]:
        """The rows of the row group `inner`, which is `unit` of the source, as lines of JSON."""
        if inner >= self._groups:
            return
        file = _opened(self.path)
        row = 1 + sum(file.metadata.row_group(i).num_rows for i in range(inner))
        size = file.metadata.row_group(inner).total_byte_size
        part, have = 0, 0
        numbers: list[int] = []
        lines: list[bytes] = []
        problems: list[Problem] = []

        def block() -> Block:
            return Block(
                path=str(self.path),
                unit=unit,
                part=part,
                held=b"".join(lines),
                numbers=tuple(numbers),
                problems=tuple(problems),
                size=0 if part else size,
            )

        for batch in self._batches(file, inner, row):
            for record in batch.to_pylist():
                try:
                    lines.append(_json_line(record))
                    numbers.append(row)
                    have += len(lines[-1])
                except ValueError as error:
                    problems.append((row, str(error), repr(record).encode()[:2000]))
                row += 1
            if have >= self.block_bytes:
                yield block()
                part, have = part + 1, 0
                for each in (numbers, lines, problems):
                    each.clear()
        if lines or problems:
            yield block()

    def _batches(self, file: Any, group: int, row: int) -> Iterator[Any]:
        import pyarrow

        try:
            for batch in file.iter_batches(batch_size=_ROWS, row_groups=[group]):
                yield batch
                row += len(batch)
        except (pyarrow.ArrowException, OSError) as error:
            reason = str(error).partition("\n")[0].rstrip(".")
            raise MccError(f"{self.path}: damaged behind row {row - 1}: {reason}", "get the file again") from error


def _opened(path: Path) -> Any:
    import pyarrow
    from pyarrow import parquet

    try:
        return parquet.ParquetFile(path)
    except pyarrow.ArrowException as error:
        reason = str(error).partition("\n")[0]
        raise MccError(f"{path}: cannot be read as Parquet: {reason}", "get the file again") from error


def _json_line(record: Record) -> bytes:
    """A row as a line of JSON.

    Raises:
        ValueError: a value has no JSON form.
    """
    try:
        return orjson.dumps(record, default=_json_value) + b"\n"
    except TypeError as error:
        raise ValueError(f"a value has no JSON form: {error.__cause__ or error}") from error


def _json_value(value: object) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    return str(value)
