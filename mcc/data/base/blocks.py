"""The input of a step cut into blocks of whole lines: the unit of work, of restart, and of sharding over machines.

Blocks depend on the files and the block size alone, not on how many processes or machines read them, and they can be
reached without reading what stands before (in plain files and Parquet; a compressed file is read from its start).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import orjson

from mcc.core.errors import MccError, UsageError
from mcc.data.base.members import Stretch, Window, stretches
from mcc.data.base.plaintext import split_documents
from mcc.data.base.records import BOM, DUMP, JSONL, PARQUET, TEXT, ReadConfig, Record, parse
from mcc.data.base.streams import BROKEN, COMPRESSIONS, broken, content_suffix, expand, is_zstd_error, open_input

if TYPE_CHECKING:
    from mcc.data.base.part import Part

_PIECE_BYTES = 1 << 18
_PARQUET_ROWS = 256


@dataclass(frozen=True, kw_only=True)
class Block:
    """Some whole lines of one file.

    Args:
        path: the file.
        unit, part: the block's place: unit `unit` of the source, the `part`-th block in it.
        line: number of the first line, from 1.
        data: lines of JSON; a source of another kind may put other bytes here.
        numbers: the number of each line, when they are not consecutive.
        problems: (line, reason, its first bytes) of lines that were not read.
        size: bytes of the file on disk that this block stands for.
        offset: where `data` stands in the file, when it stands there as it is: another process then reads it itself.
    """

    path: str
    unit: int
    part: int = 0
    line: int = 1
    data: bytes = b""
    numbers: tuple[int, ...] | None = None
    problems: tuple[tuple[int, str, bytes], ...] = ()
    size: int = 0
    offset: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        if self.offset is not None:
            state["data"] = len(self.data)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state["offset"] is not None:
            with Path(state["path"]).open("rb", buffering=0) as stream:
                stream.seek(state["offset"])
                data = _read(stream, state["data"])
            if len(data) != state["data"]:
                raise MccError(f"{state['path']} was changed while it was read", "start again when it stays as it is")
            state = {**state, "data": data}
        self.__dict__.update(state)

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Number and bytes of every line, without its end."""
        lines = self.data.split(b"\n")
        if not lines[-1]:
            lines.pop()
        return zip(self.numbers or range(self.line, self.line + len(lines)), lines, strict=True)

    def records(self, read: ReadConfig, out: Part) -> Iterator[tuple[str, Record]]:
        """(`FILE:LINE`, record) of every line; counts `documents_in` and `chars_in`. Bad lines go to `out`.

        Raises:
            MccError: a line is bad and `read.on_error` is `fail`.
        """
        for where, _, record in self.records_and_lines(read, out):
            yield where, record

    def records_and_lines(self, read: ReadConfig, out: Part) -> Iterator[tuple[str, bytes, Record]]:
        """`records`, with the line that each was read from."""
        key = read.keys[0]
        documents = chars = 0
        try:
            for number, line in self.lines():
                if number == 1:
                    line = line.removeprefix(BOM)
                if not line or line.isspace():
                    continue
                where = f"{self.path}:{number}"
                try:
                    if len(line) > read.max_line_bytes:
                        raise ValueError(_too_long(len(line), read))
                    record = parse(line, read.keys)
                except ValueError as error:
                    out.bad_line(where, str(error), line, read)
                    continue
                documents += 1
                chars += len(record[key])
                yield where, line, record
        finally:
            out.counts["documents_in"] += documents
            out.counts["chars_in"] += chars
        for number, reason, line in self.problems:
            out.bad_line(f"{self.path}:{number}", reason, line, read)


def _too_long(size: int, read: ReadConfig) -> str:
    return f"a line of {size:,} bytes, more than max_line_bytes = {read.max_line_bytes:,}"


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
        self._stretches: dict[Path, list[Stretch]] = {}
        self._ends = list(accumulate(self._units_of(path) for path in self.paths))
        # (file, unit within it) -> number of its first line: of the unit that comes next.
        self._next_line: tuple[int, int, int] = (0, 0, 1)

    def _units_of(self, path: Path) -> int:
        if content_suffix(path) in PARQUET:
            return max(_parquet(path).metadata.num_row_groups, 1)
        if content_suffix(path) in TEXT:
            return 1
        if path.suffix.lower() in COMPRESSIONS:
            self._stretches[path] = stretches(path, self.block_bytes)
            return len(self._stretches[path]) or 1
        return max(-(-path.stat().st_size // self.block_bytes), 1)

    def units(self) -> int:
        """A plain file has one for every `block_bytes`, and so has one that a step compressed; Parquet one a row group;
        any other file is one."""
        return self._ends[-1]

    def blocks(self, unit: int) -> Iterator[Block]:
        """The lines of a unit."""
        file = bisect_right(self._ends, unit)
        inner = unit - (self._ends[file - 1] if file else 0)
        path = self.paths[file]
        if content_suffix(path) in PARQUET:
            yield from self._parquet_blocks(path, unit, inner)
        elif content_suffix(path) in TEXT:
            yield from self._text_blocks(path, unit)
        elif path.suffix.lower() in COMPRESSIONS:
            yield from self._stream_blocks(path, unit, inner)
        else:
            yield from self._plain_block(path, unit, file, inner)

    def _plain_block(self, path: Path, unit: int, file: int, inner: int) -> Iterator[Block]:
        """The lines that start in bytes [inner * block_bytes, (inner + 1) * block_bytes) of the file."""
        begin = inner * self.block_bytes
        with path.open("rb", buffering=0) as stream:
            line = self._first_line(stream, file, inner, begin)
            # With the byte before, to see whether a line starts at `begin`.
            stream.seek(max(begin - 1, 0))
            wanted = self.block_bytes + (1 if begin else 0)
            data = _read(stream, wanted)
            offset = begin
            if begin:
                newline = data.find(b"\n")
                data = data[newline + 1 :] if newline >= 0 else b""
                offset = begin + newline  # the byte before `begin` was read too
            size = min(self.block_bytes, max(path.stat().st_size - begin, 0))
            data, problems = self._whole_lines(stream, data, line)
        if begin == 0 and data.startswith(BOM):
            data, offset = data[len(BOM) :], len(BOM)
        self._next_line = (file, inner + 1, line + data.count(b"\n") + len(problems))
        yield Block(path=str(path), unit=unit, line=line, data=data, problems=problems, size=size, offset=offset)

    def _first_line(self, stream: IO[bytes], file: int, inner: int, begin: int) -> int:
        if inner == 0:
            return 1
        if self._next_line[:2] == (file, inner):
            return self._next_line[2]
        # Started in the middle of a file: lines are counted once.
        count = 0
        stream.seek(0)
        left = begin - 1
        while left > 0 and (piece := stream.read(min(left, _PIECE_BYTES))):
            count += piece.count(b"\n")
            left -= len(piece)
        # The line that begins at or behind `begin`: the newline that ends the one before counts too.
        return count + 2

    def _whole_lines(
        self, stream: IO[bytes], data: bytes, line: int
    ) -> tuple[bytes, tuple[tuple[int, str, bytes], ...]]:
        """`data` read on to the end of its last line; a line that is too long is cut off and told of."""
        if not data or data.endswith(b"\n"):
            return data, ()
        start = data.rfind(b"\n") + 1
        pieces, have = [data], len(data) - start
        while piece := stream.read(_PIECE_BYTES):
            newline = piece.find(b"\n")
            have += newline if newline >= 0 else len(piece)
            if have <= self.read.max_line_bytes:
                pieces.append(piece[: newline + 1] if newline >= 0 else piece)
            if newline >= 0:
                if hasattr(stream, "peeked"):
                    stream.peeked(piece[newline + 1 :])
                break
        if have <= self.read.max_line_bytes:
            return b"".join(pieces), ()
        number = line + data.count(b"\n")
        return data[:start], ((number, _too_long(have, self.read), data[start:][:2000]),)

    def _stream_blocks(self, path: Path, unit: int, inner: int = 0) -> Iterator[Block]:
        """A compressed file, or a stretch of it, from its start."""
        known = self._stretches.get(path)
        stretch = known[inner] if known else Stretch(0, path.stat().st_size, 1)
        line, part, told = stretch.line, 0, 0
        with Window(path, stretch) as raw:
            stream = _Pieces(open_input(path, cast(IO[bytes], raw)))
            try:
                while True:
                    data = stream.fill(self.block_bytes)
                    data, problems = self._whole_lines(stream, data, line)  # type: ignore[arg-type]
                    if not data and not problems:
                        return
                    if line == 1:
                        data = data.removeprefix(BOM)
                    size, told = raw.tell() - told, raw.tell()
                    yield Block(
                        path=str(path), unit=unit, part=part, line=line, data=data, problems=problems, size=size
                    )
                    line += data.count(b"\n") + len(problems)
                    part += 1
            except BROKEN as error:
                raise broken(path, error, f"after line {line - 1 + stream.lines}") from error
            except Exception as error:
                if is_zstd_error(error):
                    raise broken(path, error, f"after line {line - 1 + stream.lines}") from error
                raise

    def _text_blocks(self, path: Path, unit: int) -> Iterator[Block]:
        """Plain text, cut into documents."""
        if self.read.keys != ("text",):
            raise UsageError(f"{path}: plain text has no keys but 'text'", "give JSONL files")
        problems: list[tuple[int, str, bytes]] = []
        with path.open("rb") as raw:
            numbers: list[int] = []
            found: list[bytes] = []
            chars = part = told = 0
            for number, text in split_documents(_decoded(path, raw, problems)):
                numbers.append(number)
                found.append(orjson.dumps({"id": f"{path.name}:{number}", "text": text}) + b"\n")
                chars += len(text)
                if chars >= self.block_bytes:
                    size, told = raw.tell() - told, raw.tell()
                    yield _text_block(path, unit, part, found, numbers, problems, size)
                    numbers, found, chars, part = [], [], 0, part + 1
                    problems.clear()
            if found or problems:
                yield _text_block(path, unit, part, found, numbers, problems, raw.tell() - told)

    def _parquet_blocks(self, path: Path, unit: int, group: int) -> Iterator[Block]:
        """The rows of a row group; a row's number, from 1, is its line."""
        file = _parquet(path)
        if group >= file.metadata.num_row_groups:
            return
        row = 1 + sum(file.metadata.row_group(i).num_rows for i in range(group))
        size = file.metadata.row_group(group).total_byte_size
        part, lines, first, have = 0, [], row, 0
        for batch in file.iter_batches(batch_size=_PARQUET_ROWS, row_groups=[group]):
            for record in batch.to_pylist():
                lines.append(_json_line(record, path, row))
                have += len(lines[-1])
                row += 1
            if have >= self.block_bytes:
                yield Block(path=str(path), unit=unit, part=part, line=first, data=b"".join(lines), size=size)
                part, lines, first, have, size = part + 1, [], row, 0, 0
        if lines:
            yield Block(path=str(path), unit=unit, part=part, line=first, data=b"".join(lines), size=size)

    def key(self) -> Any:
        """The files and how they are read."""
        return [super().key(), [*self.read.keys], self.read.on_error, self.read.max_line_bytes, self.block_bytes]


class _Pieces:
    """A decompressed stream read piece by piece: what came before an error is counted."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream: Any = stream
        self._left = b""
        self.lines = 0

    def fill(self, size: int) -> bytes:
        """About `size` bytes; fewer only at the end."""
        pieces, have = [], 0
        self.lines = 0
        while have < size and (piece := self.read(_PIECE_BYTES)):
            pieces.append(piece)
            have += len(piece)
            self.lines += piece.count(b"\n")
        return b"".join(pieces)

    def read(self, size: int) -> bytes:
        if self._left:
            piece, self._left = self._left, b""
            return piece
        piece = self._stream.read1(size)
        return bytes(piece)

    def peeked(self, rest: bytes) -> None:
        """Give back what was read too much."""
        self._left = rest


def _read(stream: IO[bytes], size: int) -> bytes:
    """`size` bytes from an unbuffered file; fewer at its end only."""
    pieces = []
    while size > 0 and (piece := stream.read(size)):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _decoded(path: Path, raw: IO[bytes], problems: list[tuple[int, str, bytes]]) -> Iterator[tuple[int, str]]:
    number = 0
    try:
        for number, line in enumerate(open_input(path, raw), 1):
            line = line.rstrip(b"\r\n")
            try:
                yield number, (line.removeprefix(BOM) if number == 1 else line).decode()
            except UnicodeDecodeError as error:
                problems.append((number, f"not UTF-8 at byte {error.start + 1} of the line", line[:2000]))
    except BROKEN as error:
        raise broken(path, error, f"after line {number}") from error
    except Exception as error:
        if is_zstd_error(error):
            raise broken(path, error, f"after line {number}") from error
        raise


def _text_block(
    path: Path,
    unit: int,
    part: int,
    found: list[bytes],
    numbers: list[int],
    problems: list[tuple[int, str, bytes]],
    size: int,
) -> Block:
    return Block(
        path=str(path),
        unit=unit,
        part=part,
        data=b"".join(found),
        numbers=tuple(numbers),
        problems=tuple(problems),
        size=size,
    )


def _parquet(path: Path) -> Any:
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
