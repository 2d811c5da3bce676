"""Blocks of files of lines: plain ones, which can be entered anywhere, and compressed ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from mcc.data.base.block import Block, Problem, read_exactly, too_long
from mcc.data.base.members import Stretch, Window, stretches
from mcc.data.base.records import BOM, SHOWN_BYTES, ReadConfig
from mcc.data.base.streams import COMPRESSIONS, open_input, telling_damage

_PIECE_BYTES = 1 << 18
_NEWLINE = np.uint8(ord("\n"))


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
        # A unit, where its first line begins, and that line's number: of the one that comes next.
        self._next: tuple[int, int, int] = (0, 0, 1)
        # Units that were cut before, for the phases to come: (first line's number, place, problems).
        self._cut: dict[int, tuple[int, tuple[int, int], tuple[Problem, ...]]] = {}

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
        """The lines that start in bytes [inner * block_bytes, (inner + 1) * block_bytes) of the file. They are not
        kept: whoever works on the block reads them."""
        begin, total = inner * self.block_bytes, self.path.stat().st_size
        end = min(begin + self.block_bytes, total)
        if inner not in self._cut:
            self._cut[inner] = self._search(inner, begin, end)
        line, place, problems = self._cut[inner]
        return Block(
            path=str(self.path), unit=unit, line=line, place=place, problems=problems, size=max(end - begin, 0)
        )

    def _search(self, inner: int, begin: int, end: int) -> tuple[int, tuple[int, int], tuple[Problem, ...]]:
        """The number of the first line that starts in bytes [begin, end), where the lines stand, and those that are too
        long."""
        problems: tuple[Problem, ...] = ()
        with self.path.open("rb", buffering=0) as stream:
            start, line = self._first_line(stream, inner, begin)
            lines, last = _newlines(stream, start, end)
            stop = last
            if start < end and last < end:  # the last line goes on
                stop, length = _line_end(stream, last, end)
                if length > self.read.max_line_bytes:
                    stream.seek(last)
                    shown = read_exactly(stream, SHOWN_BYTES)
                    problems = ((line + lines, too_long(length, self.read), shown),)
                else:
                    last = stop
                lines += 1
            if begin == 0:
                stream.seek(0)
                start = len(BOM) if last >= len(BOM) and read_exactly(stream, len(BOM)) == BOM else 0
        self._next = (inner + 1, stop, line + lines)
        return line, (start, last - start), problems

    def _first_line(self, stream: IO[bytes], inner: int, begin: int) -> tuple[int, int]:
        """Where the first line that starts at or behind `begin` does, and its number."""
        if inner == 0:
            return 0, 1
        if self._next[0] == inner:
            return self._next[1:]
        # Started in the middle of a file: lines are counted once.
        count, _ = _newlines(stream, 0, begin - 1)
        # The newline that ends the line before counts too.
        return _line_end(stream, begin - 1, begin - 1)[0], count + 2

    def _whole_lines(self, stream: _Pieces, data: bytes, line: int) -> tuple[bytes, tuple[Problem, ...]]:
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
                stream.peeked(piece[newline + 1 :])
                break
        if have <= self.read.max_line_bytes:
            return b"".join(pieces), ()
        number = line + data.count(b"\n")
        return data[:start], ((number, too_long(have, self.read), data[start:][:SHOWN_BYTES]),)

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
                    data, problems = self._whole_lines(stream, data, line)
                    if not data and not problems:
                        return
                    if line == 1:
                        data = data.removeprefix(BOM)
                    size, told = raw.tell() - told, raw.tell()
                    yield Block(
                        path=str(self.path), unit=unit, part=part, line=line, held=data, problems=problems, size=size
                    )
                    line += data.count(b"\n") + len(problems)
                    part += 1


def _newlines(stream: IO[bytes], start: int, end: int) -> tuple[int, int]:
    """How many newlines there are in bytes [start, end) of a file, and where the line after the last of them begins:
    `start` if there are none."""
    whole = bytearray(min(_PIECE_BYTES, max(end - start, 0)))
    piece, numbers, hits = memoryview(whole), np.frombuffer(whole, np.uint8), np.empty(len(whole), bool)
    count, last = 0, start
    stream.seek(start)
    while start < end and (size := stream.readinto(piece[: end - start])):  # type: ignore[attr-defined]
        np.equal(numbers[:size], _NEWLINE, out=hits[:size])
        if found := int(np.count_nonzero(hits[:size])):
            count += found
            last = start + whole.rfind(b"\n", 0, size) + 1
        start += size
    return count, last


def _line_end(stream: IO[bytes], line: int, behind: int) -> tuple[int, int]:
    """Where the line that begins at byte `line` and goes on at `behind` ends, with its newline, and its length
    without."""
    stream.seek(behind)
    while piece := stream.read(_PIECE_BYTES):
        newline = piece.find(b"\n")
        if newline >= 0:
            return behind + newline + 1, behind + newline - line
        behind += len(piece)
    return behind, behind - line


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
