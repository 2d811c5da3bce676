"""Compressed files that can be entered in the middle.

Behind every member (gzip) or frame (zstandard) that a step writes stands an empty one that says how long it is and how
many lines it holds: an empty gzip member with an extra field (RFC 1952, 2.3.1.1), or a skippable frame (RFC 8878,
3.1.2). Other programs read over them. From the end of the file they lead from member to member.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What a trailer holds: bytes of the member before it, bytes of its text, lines.
_NUMBERS = struct.Struct("<QQQ")
_NAME = b"mcc1"
# A gzip header with FLG.FEXTRA; XLEN; one subfield "mC" of 28 bytes. Behind it an empty deflate block, CRC and size.
_GZIP = (bytes.fromhex("1f8b08040000000000ff") + struct.pack("<H2sH", 32, b"mC", 28), bytes.fromhex("0300") + bytes(8))
_ZSTANDARD = (struct.pack("<II", 0x184D2A5D, 28), b"")
_AROUND = {".gz": _GZIP, ".zst": _ZSTANDARD}


@dataclass(frozen=True)
class Stretch:
    """Whole members one after the other: `size` bytes of the file from `offset` on; the first line is number `line`."""

    offset: int
    size: int
    line: int


def trailer(ending: str, packed: int, raw: bytes) -> bytes:
    """What to write behind a member of `packed` bytes that holds `raw`; nothing when it does not hold whole lines.

    >>> import gzip
    >>> member = gzip.compress(b"a line")
    >>> gzip.decompress(member + trailer(".gz", len(member), b"a line\\n"))
    b'a line'
    """
    if ending not in _AROUND or not raw.endswith(b"\n"):
        return b""
    before, behind = _AROUND[ending]
    return before + _NAME + _NUMBERS.pack(packed, len(raw), raw.count(b"\n")) + behind


def stretches(path: Path, least: int) -> list[Stretch]:
    """The members of a file in stretches of at least `least` bytes of text; empty when the file is not all ours."""
    around = _AROUND.get(path.suffix.lower())
    if around is None:
        return []
    found: list[tuple[int, int, int, int]] = []
    before, behind = around
    length = len(before) + len(_NAME) + _NUMBERS.size + len(behind)
    with path.open("rb", buffering=0) as file:
        end = file.seek(0, 2)
        while end > 0:
            file.seek(max(end - length, 0))
            read = file.read(length)
            if not (len(read) == length and read.startswith(before + _NAME) and read.endswith(behind)):
                return []
            packed, raw, lines = _NUMBERS.unpack_from(read, len(before) + len(_NAME))
            begin = end - length - packed
            if begin < 0:
                return []
            found.append((begin, end - begin, raw, lines))
            end = begin
    return _joined(found[::-1], least)


class Window(io.RawIOBase):
    """A stretch of a file as a file of its own."""

    def __init__(self, path: Path, stretch: Stretch) -> None:
        self._file = path.open("rb", buffering=0)
        self._file.seek(stretch.offset)
        self._done, self._size = 0, stretch.size

    def readable(self) -> bool:
        """It can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Bytes of the stretch."""
        count = self._file.readinto(memoryview(buffer)[: self._size - self._done]) or 0
        self._done += count
        return count

    def tell(self) -> int:
        """Bytes read."""
        return self._done

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


def _joined(members: Sequence[tuple[int, int, int, int]], least: int) -> list[Stretch]:
    joined: list[Stretch] = []
    line, have = 1, least
    for offset, size, raw, lines in members:
        if have >= least:
            joined.append(Stretch(offset, size, line))
            have = 0
        else:
            last = joined[-1]
            joined[-1] = Stretch(last.offset, last.size + size, last.line)
        have += raw
        line += lines
    return joined
