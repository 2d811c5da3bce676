"""Blocks of plain text, cut into documents."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO

import orjson

from mcc.data.base.block import Block, Problem
from mcc.data.base.plaintext import split_documents
from mcc.data.base.records import BOM
from mcc.data.base.streams import open_input, telling_damage


class TextFile:
    """A text file, plain or compressed, whose documents become records with an `id` and a `text`.

    Args:
        path: the file.
        block_bytes: characters of a block, about.
    """

    def __init__(self, path: Path, block_bytes: int) -> None:
        self.path = path
        self.block_bytes = block_bytes

    def units(self) -> int:
        """One: where a document begins depends on what stands before it."""
        return 1

    def blocks(self, unit: int, inner: int) -> Iterator[Block]:
        """The documents, `unit` of the source.

        Raises:
            MccError: the file is damaged; says after which line.
        """
        with self.path.open("rb") as raw:
            part = told = chars = 0
            numbers: list[int] = []
            found: list[bytes] = []
            problems: list[Problem] = []

            def block() -> Block:
                nonlocal told
                size, told = raw.tell() - told, raw.tell()
                return Block(
                    path=str(self.path),
                    unit=unit,
                    part=part,
                    held=b"".join(found),
                    numbers=tuple(numbers),
                    problems=tuple(problems),
                    size=size,
                )

            for number, text in split_documents(_decoded(self.path, raw, problems)):
                numbers.append(number)
                found.append(orjson.dumps({"id": f"{self.path.name}:{number}", "text": text}) + b"\n")
                chars += len(text)
                if chars >= self.block_bytes:
                    yield block()
                    chars, part = 0, part + 1
                    numbers.clear()
                    found.clear()
                    problems.clear()
            if found or problems:
                yield block()


def _decoded(path: Path, raw: IO[bytes], problems: list[Problem]) -> Iterator[tuple[int, str]]:
    number = 0
    with telling_damage(path, lambda: f"after line {number}"):
        for number, line in enumerate(open_input(path, raw), 1):
            line = line.rstrip(b"\r\n")
            try:
                yield number, (line.removeprefix(BOM) if number == 1 else line).decode()
            except UnicodeDecodeError as error:
                problems.append((number, f"not UTF-8 at byte {error.start + 1} of the line", line[:2000]))
