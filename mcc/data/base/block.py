"""Some whole lines of one file: what a phase works on at once, and what a killed run continues behind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

from mcc.core.errors import MccError
from mcc.data.base.records import BOM, ReadConfig, Record, parse

if TYPE_CHECKING:
    from mcc.data.base.part import Part

# (number, reason, first bytes) of a line that was not read.
Problem = tuple[int, str, bytes]


@dataclass(frozen=True, kw_only=True)
class Block:
    """Some whole lines of one file.

    Args:
        path: the file.
        unit, part: the block's place: unit `unit` of the source, the `part`-th block in it.
        line: number of the first line, from 1.
        held: what is in it: lines of JSON; a source of another kind may put other bytes here;
        place: or where that stands in the file as it is, (offset, bytes): whoever works on the block reads it.
        numbers: the number of each line, when they are not consecutive.
        problems: (line, reason, its first bytes) of lines that were not read.
        size: bytes of the file on disk that this block stands for.
    """

    path: str
    unit: int
    part: int = 0
    line: int = 1
    held: bytes = b""
    place: tuple[int, int] | None = None
    numbers: tuple[int, ...] | None = None
    problems: tuple[Problem, ...] = ()
    size: int = 0

    @property
    def data(self) -> bytes:
        """What is in it, read now if it is not held.

        Raises:
            MccError: the file has become shorter.
        """
        if self.place is None:
            return self.held
        offset, size = self.place
        with Path(self.path).open("rb", buffering=0) as stream:
            stream.seek(offset)
            data = read_exactly(stream, size)
        if len(data) != size:
            raise MccError(f"{self.path} was changed while it was read", "start again when it stays as it is")
        return data

    def read(self) -> Block:
        """The block with its data held."""
        return self if self.place is None else replace(self, held=self.data, place=None)

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
                        raise ValueError(too_long(len(line), read))
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


def too_long(size: int, read: ReadConfig) -> str:
    """Why a line of `size` bytes is a bad line."""
    return f"a line of {size:,} bytes, more than max_line_bytes = {read.max_line_bytes:,}"


def read_exactly(stream: IO[bytes], size: int) -> bytes:
    """`size` bytes from an unbuffered file; fewer at its end only."""
    pieces = []
    while size > 0 and (piece := stream.read(size)):
        pieces.append(piece)
        size -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
