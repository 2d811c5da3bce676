"""Outputs of a job under their final names."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from mcc.core.errors import MccError, UsageError
from mcc.core.files import atomic_path, remove
from mcc.data.base.part import pack_empty
from mcc.data.base.records import JSONL, PARQUET
from mcc.data.base.streams import COMPRESSIONS, content_suffix
from mcc.data.base.work import Work

_COPY_BYTES = 1 << 20
# Rows of a Parquet row group; its bytes are bounded too.
_ROWS = 4096
_ROW_BYTES = 4 << 20


@dataclass(frozen=True)
class Output:
    """A file that a job leaves.

    Args:
        path: its name; for `.parquet` the stream holds lines of JSON.
        phase, stream: where it comes from;
        file: or the name of a file in the job's folder.
        optional: without content the file is not made, and one that stands there from before is deleted.
    """

    path: Path
    phase: str | None = None
    stream: str | None = None
    file: str | None = None
    optional: bool = False


def records_path(path: Path, parquet: bool = True) -> Path:
    """`path`, when records can be written to a file of that name.

    Args:
        parquet: whether they have common columns.

    Raises:
        UsageError: its ending is none of those.
    """
    suffix = content_suffix(path)
    if suffix in JSONL or (parquet and suffix in PARQUET and path.suffix.lower() in PARQUET):
        return path
    endings = ", ".join([*(f".jsonl{end}" for end in ("", *COMPRESSIONS)), *(PARQUET if parquet else ())])
    raise UsageError(f"output {path}: records are written as JSON lines", f"end its name with one of {endings}")


def publish(output: Output, work: Work) -> None:
    """Move or join the files of an output to its name. Done again after a kill, it does nothing twice."""
    files = work.files_of(output)
    if work.is_published(output):
        for file in files:  # those that a killed run had still to delete
            remove(file)
        return
    if output.optional and not work.size_of(output):
        remove(output.path)
        return
    if output.path.suffix.lower() in PARQUET:
        with atomic_path(output.path) as temporary:
            _write_parquet(files, temporary, output.path)
    elif len(files) == 1 and work.size_of(output):
        output.path.parent.mkdir(parents=True, exist_ok=True)
        _move(files[0], output.path)
    else:
        with atomic_path(output.path) as temporary, temporary.open("wb") as joined:
            for file in files:
                with file.open("rb") as source:
                    shutil.copyfileobj(source, joined, _COPY_BYTES)
            if not joined.tell():
                joined.write(pack_empty(output.path.suffix.lower()))
    work.set_published(output)
    for file in files:
        remove(file)


def _move(file: Path, path: Path) -> None:
    if path.is_dir():
        raise MccError(f"cannot write {path}: it is a folder", "choose another output path")
    try:
        file.replace(path)
    except OSError:  # another file system
        with atomic_path(path) as temporary:
            shutil.copyfile(file, temporary)
        remove(file)


def _write_parquet(files: list[Path], temporary: Path, final: Path) -> None:
    """Lines of JSON as Parquet; the first pass finds the columns' types."""
    import pyarrow
    from pyarrow import parquet

    def tables() -> Iterator[Any]:
        for rows in _row_groups(files):
            yield pyarrow.Table.from_pylist(rows)

    try:
        schema = pyarrow.unify_schemas(
            [pyarrow.schema([]), *(table.schema for table in tables())], promote_options="permissive"
        )
        with parquet.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for rows in _row_groups(files):
                writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))
    except (pyarrow.ArrowException, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise MccError(
            f"{final}: the records have no common columns: {reason}", "write .jsonl, .jsonl.gz or .jsonl.zst"
        ) from error


def _row_groups(files: list[Path]) -> Iterator[list[Any]]:
    rows: list[Any] = []
    size = 0
    for file in files:
        with file.open("rb") as lines:
            for line in lines:
                rows.append(orjson.loads(line))
                size += len(line)
                if len(rows) >= _ROWS or size >= _ROW_BYTES:
                    yield rows
                    rows, size = [], 0
    if rows:
        yield rows
