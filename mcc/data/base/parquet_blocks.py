"""Blocks of Parquet files: a unit a row group, a row's number, from 1, as its line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from mcc.core.errors import MccError
from mcc.data.base.block import Block
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
        part, lines, first, have = 0, [], row, 0
        for batch in file.iter_batches(batch_size=_ROWS, row_groups=[inner]):
            for record in batch.to_pylist():
                lines.append(_json_line(record, self.path, row))
                have += len(lines[-1])
                row += 1
            if have >= self.block_bytes:
                yield Block(path=str(self.path), unit=unit, part=part, line=first, data=b"".join(lines), size=size)
                part, lines, first, have, size = part + 1, [], row, 0, 0
        if lines:
            yield Block(path=str(self.path), unit=unit, part=part, line=first, data=b"".join(lines), size=size)


def _opened(path: Path) -> Any:
    import pyarrow
    from pyarrow import parquet

    try:
        return parquet.ParquetFile(path)
    except pyarrow.ArrowException as error:
        reason = str(error).partition("\n")[0]
        raise MccError(f"{path}: cannot be read as Parquet: {reason}", "get the file again") from error


def _json_line(record: Record, path: Path, row: int) -> bytes:
    try:
        return orjson.dumps(record, default=_json_value) + b"\n"
    except TypeError as error:
        raise MccError(f"{path}:{row}: a value has no JSON form: {error}", "drop that column") from error


def _json_value(value: object) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    return str(value)
