"""The input of a step cut into blocks of whole lines: the unit of work, of restart, and of sharding over machines.

Blocks depend on the files and the block size alone, not on how many processes or machines read them, and they can be
reached without reading what stands before (in plain files and Parquet; a compressed file is read from its start).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

from mcc.core.errors import MccError, UsageError
from mcc.data.base.block import Block
from mcc.data.base.line_blocks import LineFile
from mcc.data.base.parquet_blocks import ParquetFile
from mcc.data.base.records import DUMP, JSONL, PARQUET, TEXT, ReadConfig
from mcc.data.base.streams import COMPRESSIONS, content_suffix, expand
from mcc.data.base.text_blocks import TextFile

__all__ = ["Again", "Block", "FileSource", "RecordSource", "Source"]


class Source(ABC):
    """Gives blocks, unit by unit. A unit can be reached on its own; picklable."""

    paths: Sequence[Path] = ()

    @abstractmethod
    def units(self) -> int:
        """How many units there are."""

    @abstractmethod
    def blocks(self, unit: int) -> Iterator[Block]:
        """The blocks of a unit, with `part` counting from 0; there may be none."""

    def key(self) -> Any:
        """What tells that the input is still the same, for JSON."""
        states = [(str(path), path.stat()) for path in self.paths]
        return [(name, state.st_size, state.st_mtime_ns) for name, state in states]

    def size(self) -> int:
        """Bytes on disk."""
        return sum(path.stat().st_size for path in self.paths)

    def check(self, counts: Mapping[str, int]) -> None:
        """Look at the counts of a finished phase.

        Raises:
            MccError: the input held nothing.
        """
        if not counts.get("documents_in") and not counts.get("bad_lines"):
            names = ", ".join(str(path) for path in self.paths[:3])
            more = f" and {len(self.paths) - 3} more files" if len(self.paths) > 3 else ""
            raise MccError(f"no documents in {names}{more}", "give a file with at least one record")


class FileSource(Source):
    """A block a file, without data: for phases over files that an earlier phase wrote."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)

    def units(self) -> int:
        """One a file."""
        return len(self.paths)

    def blocks(self, unit: int) -> Iterator[Block]:
        """The one block that names the file."""
        yield Block(path=str(self.paths[unit]), unit=unit, size=self.paths[unit].stat().st_size)

    def check(self, counts: Mapping[str, int]) -> None:
        """Such files may be empty."""


class Again(Source):
    """The blocks of a source once more, when an earlier phase has counted its documents."""

    def __init__(self, source: Source) -> None:
        self._source, self.paths = source, source.paths

    def units(self) -> int:
        """Those of the source."""
        return self._source.units()

    def blocks(self, unit: int) -> Iterator[Block]:
        """Those of the source."""
        return self._source.blocks(unit)

    def key(self) -> Any:
        """That of the source."""
        return self._source.key()

    def check(self, counts: Mapping[str, int]) -> None:
        """The earlier phase did."""


class BlockFile(Protocol):
    """A file cut into units, and those into blocks."""

    def units(self) -> int:
        """How many units it has, at least one."""

    def blocks(self, unit: int, inner: int) -> Iterator[Block]:
        """The blocks of its unit `inner`, which is `unit` of the source."""


class RecordSource(Source):
    """The records of files in order, as lines of JSON.

    Args:
        inputs: `.jsonl` (`.json`, `.ndjson`), plain `.txt`, both also as `.gz`, `.bz2`, `.zst`, and `.parquet`;
            glob patterns.
        read: what counts as a record.
        block_bytes: of a block, about; default: `read.block_bytes`.

    Raises:
        MccError: a file is missing or damaged.
        UsageError: a file's ending is of no known format.
    """

    def __init__(
        self, inputs: Sequence[str | Path], read: ReadConfig | None = None, block_bytes: int | None = None
    ) -> None:
        self.read = read or ReadConfig()
        self.paths = expand(inputs)
        self.block_bytes = block_bytes or self.read.block_bytes
        for path in self.paths:
            _check_format(path, self.read)
        self._files = [self.opened(path) for path in self.paths]
        self._ends = list(accumulate(file.units() for file in self._files))

    def opened(self, path: Path) -> BlockFile:
        """What cuts a file into blocks."""
        if content_suffix(path) in PARQUET:
            return ParquetFile(path, self.block_bytes)
        if content_suffix(path) in TEXT:
            return TextFile(path, self.block_bytes)
        return LineFile(path, self.read, self.block_bytes)

    def units(self) -> int:
        """A file of lines has as many as can be reached on their own, Parquet one a row group, plain text one."""
        return self._ends[-1]

    def blocks(self, unit: int) -> Iterator[Block]:
        """The lines of a unit."""
        file = bisect_right(self._ends, unit)
        yield from self._files[file].blocks(unit, unit - (self._ends[file - 1] if file else 0))

    def key(self) -> Any:
        """The files and how they are read."""
        return [super().key(), [*self.read.keys], self.read.on_error, self.read.max_line_bytes, self.block_bytes]


def _check_format(path: Path, read: ReadConfig) -> None:
    suffix = content_suffix(path)
    if suffix in TEXT and read.keys != ("text",):
        raise UsageError(f"{path}: plain text has no keys but 'text'", "give JSONL files")
    if suffix in PARQUET and path.suffix.lower() in COMPRESSIONS:
        raise UsageError(f"{path}: Parquet is compressed inside", "decompress the file first")
    if suffix in (*JSONL, *TEXT, *PARQUET):
        return
    if suffix in DUMP:
        raise UsageError(f"{path} is a MediaWiki dump", f"first turn it into text: mcc data wiki {path} -o pages.jsonl")
    known = ", ".join((*JSONL, *TEXT))
    raise UsageError(
        f"{path}: unknown format {suffix!r}", f"known: {known}, each also with {', '.join(COMPRESSIONS)}; .parquet"
    )
