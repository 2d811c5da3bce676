"""Where the texts of documents are found again when candidates are compared: most never are.

Of a text in a plain file its line's place there is kept, any other as it is: half of the bytes that deduplication would
write are not written.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO

import numpy as np
import orjson
from numpy.typing import NDArray

from mcc.core.errors import MccError
from mcc.data.base.block import Block

# No text in UTF-8 begins with this byte: number of the file, offset and bytes of the line follow.
_PLACE = struct.Struct("<cqqq")
_TAG = b"\xff"


@dataclass(frozen=True)
class Texts:
    """The texts of documents that blocks gave.

    Args:
        paths: of the files that blocks are of.
        key: of the text in a record.
    """

    paths: tuple[str, ...]
    key: str

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {path: number for number, path in enumerate(self.paths)}

    def kept(self, block: Block, data: bytes, lines: Sequence[int], sizes: Sequence[int]) -> list[bytes] | None:
        """Where the texts are, or None when the block cannot be reached in its file.

        Args:
            data: of the block.
            lines: the number of each text's line. sizes: its bytes.
        """
        if block.place is None:
            return None
        file, starts = self._numbers[block.path], block.place[0] + _offsets(data, block.line, lines, sizes)
        return [_PLACE.pack(_TAG, file, start, size) for start, size in zip(starts.tolist(), sizes, strict=True)]

    def finder(self) -> Callable[[bytes], bytes]:
        """A function that gives the text, in UTF-8, of what was kept. It raises MccError if the file was changed."""
        files: dict[int, IO[bytes]] = {}

        def find(kept: bytes) -> bytes:
            if not kept.startswith(_TAG):
                return kept
            _, number, start, size = _PLACE.unpack(kept)
            path = self.paths[number]
            file = files.get(number) or files.setdefault(number, Path(path).open("rb", buffering=0))  # noqa: SIM115
            try:
                text: str = orjson.loads(os.pread(file.fileno(), size, start))[self.key]
                return text.encode()
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                what = f"{path} was changed while it was read"
                raise MccError(what, "start again when it stays as it is") from error

        return find


def _offsets(data: bytes, first: int, lines: Sequence[int], sizes: Sequence[int]) -> NDArray[np.int64]:
    """Where lines of a block begin in it, counted from its start; its first line has the number `first`."""
    if lines[0] == first and lines[-1] - first + 1 == len(lines):  # none is left out
        starts = np.zeros(len(sizes), dtype=np.int64)
        np.cumsum(np.asarray(sizes[:-1], dtype=np.int64) + 1, out=starts[1:])
        return starts
    ends = np.flatnonzero(np.frombuffer(data, dtype=np.uint8) == ord("\n")) + 1
    return np.concatenate(([0], ends))[np.asarray(lines) - first]
