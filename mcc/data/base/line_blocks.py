"""Blocks of files of lines: plain ones, which can be entered anywhere, and compressed ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from mcc.data.base.block import Block, Problem, read_exactly, too_long
from mcc.data.base.members import Stretch, Window, stretches
from mcc.data.base.records import BOM, ReadConfig
from mcc.data.base.streams import COMPRESSIONS, open_input, telling_damage

_PIECE_BYTES = 1 << 18


class LineFile:
    """A file of lines, cut into units that can be reached on their own.

    Args:
        path: plain, or compressed as its ending says.
        read: how long a line may be.
        block_bytes: of a block, about.
    """

    def __init__(self, path: Path, read: ReadConfig, block_bytes: int) -> None:
        self.path = path
        self.read = read
        self.block_bytes = block_bytes
        self._compressed = path.suffix.lower() in COMPRESSIONS
        self._stretches: list[Stretch] = stretches(path, block_bytes) if self._compressed else []
        # A unit, and the number of its first line: of the one that comes next.
        self._next_line: tuple[int, int] = (0, 1)

    def units(self) -> int:
        """A plain file has one for every `block_bytes`, so has one that a step compressed; any other is one."""
        if self._compressed:
            return len(self._stretches) or 1
        return max(-(-self.path.stat().st_size // self.block_bytes), 1)

    def blocks(self, unit: int, inner: int) -> Iterator[Block]:
        """The lines of the file's unit `inner`, which is `unit` of the source."""
        if self._compressed:
            yield from self._stretch(unit, inner)
        else:
            yield self._plain(unit, inner)

    def _plain(self, unit: int, inner: int) -> Block:
        """The lines that start in bytes [inner * block_bytes, (inner + 1) * block_bytes) of the file."""
        begin = inner * self.block_bytes
        with self.path.open("rb", buffering=0) as stream:
            line = self._first_line(stream, inner, begin)
            # With the byte before, to see whether a line starts at `begin`.
            stream.seek(max(begin - 1, 0))
            wanted = self.block_bytes + (1 if begin else 0)
            data = read_exactly(stream, wanted)
            offset = begin
            if begin:
                newline = data.find(b"\n")
                data = data[newline + 1 :] if newline >= 0 else b""
                offset = begin + newline  # the byte before `begin` was read too
            size = min(self.block_bytes, max(self.path.stat().st_size - begin, 0))
            data, problems = self._whole_lines(stream, data, line)
        if begin == 0 and data.startswith(BOM):
            data, offset = data[len(BOM) :], len(BOM)
        self._next_line = (inner + 1, line + data.count(b"\n") + len(problems))
        return Block(path=str(self.path), unit=unit, line=line, data=data, problems=problems, size=size, offset=offset)

    def _first_line(self, stream: IO[bytes], inner: int, begin: int) -> int:
        if inner == 0:
            return 1
        if self._next_line[0] == inner:
            return self._next_line[1]
        # Started in the middle of a file: lines are counted once.
        count = 0
        stream.seek(0)
        left = begin - 1
        while left > 0 and (piece := stream.read(min(left, _PIECE_BYTES))):
            count += piece.count(b"\n")
            left -= len(piece)
        # The line that begins at or behind `begin`: the newline that ends the one before counts too.
        return count + 2

    def _whole_lines(self, stream: IO[bytes], data: bytes, line: int) -> tuple[bytes, tuple[Problem, ...]]:
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
        return data[:start], ((number, too_long(have, self.read), data[start:][:2000]),)

    def _stretch(self, unit: int, inner: int) -> Iterator[Block]:
        """A compressed file, or a stretch of it, from its start."""
        stretch = self._stretches[inner] if self._stretches else Stretch(0, self.path.stat().st_size, 1)
        line, part, told = stretch.line, 0, 0
        with Window(self.path, stretch) as raw:
            stream = _Pieces(open_input(self.path, cast(IO[bytes], raw)))
            with telling_damage(
                self.path,
                lambda: f"after line {line - 1 + stream.lines}, byte {stretch.offset + raw.tell()}",
            ):
                while True:
                    data = stream.fill(self.block_bytes)
                    data, problems = self._whole_lines(stream, data, line)  # type: ignore[arg-type]
                    if not data and not problems:
                        return
                    if line == 1:
                        data = data.removeprefix(BOM)
                    size, told = raw.tell() - told, raw.tell()
                    yield Block(
                        path=str(self.path), unit=unit, part=part, line=line, data=data, problems=problems, size=size
                    )
                    line += data.count(b"\n") + len(problems)
                    part += 1


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
