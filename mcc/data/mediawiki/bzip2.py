"""A `.bz2` file read from any byte on, so that several processes decompress one file at the same time.

A bzip2 stream is a row of blocks of up to 900 kB of text that depend on nothing before them. A block begins with a
mark of 48 bits (the digits of pi) at any bit, a stream ends with another (those of the square root of pi); there is
no table of them, so they are searched for. A mark may also turn up by chance inside a block (once in some thousand
large files): what does not decompress on its own is tried together with what follows, and with what precedes.

The format as the bzip2 documentation and Joe Tsai's "bzip2: Format Specification" (2016) describe it.
"""

from __future__ import annotations

import bz2
from pathlib import Path
from types import TracebackType

from mcc.core.errors import MccError

_BLOCK = 0x314159265359
_END = 0x177245385090
_MARK_BITS = 48
_READ_BYTES = 1 << 20
# A block of 900,000 bytes that cannot be compressed takes a little more than that.
_MAX_BLOCK_BYTES = 1 << 20


def _shifted(mark: int) -> list[tuple[bytes, int]]:
    """The bytes that `mark` fills wholly when it begins at bit 0..7 of a byte; a search for them is quick."""
    found = []
    for shift in range(8):
        spread = (mark << (8 - shift)).to_bytes(7, "big")  # 56 bits, the mark from bit `shift` on
        found.append((spread[:6] if shift == 0 else spread[1:6], shift))
    return found


_PATTERNS = [(pattern, shift, mark) for mark in (_BLOCK, _END) for pattern, shift in _shifted(mark)]


class Bzip2Reader:
    """The text of the blocks that begin at `start` or later, block by block.

    Args:
        path: a `.bz2` file of one stream or several.
        start: byte of the compressed file. With 0 the reading begins with the first block.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "a.bz2")
    ...     _ = path.write_bytes(bz2.compress(b"one ") + bz2.compress(b"two"))
    ...     with Bzip2Reader(path, 5) as reader:
    ...         reader.read(), reader.read()
    (b'two', b'')

    Raises:
        MccError: a block is damaged, or the file ends within one; says at which byte of the compressed file.
    """

    def __init__(self, path: Path, start: int = 0) -> None:
        self.path = path
        self._file = path.open("rb")
        self._file.seek(start)
        self._start = start
        self._data = b""
        self._base = start  # where `_data` begins in the file
        self._marks: list[tuple[int, int]] = []  # bit in the file and kind, in order; the first is the next to read
        self._scanned = start  # up to where marks may begin that are known
        self._at_end = False
        self._first = True
        self._ready: tuple[int, bytes] | None = None  # place and text of the first block

    def __enter__(self) -> Bzip2Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def place(self) -> int | None:
        """The byte of the file at which the next block begins, None when there is no more."""
        while self._ready is None and (self._marks or self._extend()):
            if not self._marks:
                continue
            bit, kind = self._marks[0]
            if kind == _BLOCK and not self._first:
                return bit // 8
            if kind == _BLOCK:
                # The first mark after `start` may stand inside a block: only reading tells.
                text = self._read_block()
                self._ready = None if text is None else (bit // 8, text)
                continue
            # The checksum of a stream stands behind the mark of its end.
            size = self.path.stat().st_size
            if bit + _MARK_BITS + 32 > 8 * size:
                raise MccError(f"{self.path}: truncated: it ends at byte {size} within a stream", "get the file again")
            del self._marks[0]
        return self._ready[0] if self._ready else None

    def read(self) -> bytes:
        """The text of the next block, b"" at the end."""
        if self.place() is None:
            return b""
        if self._ready is not None:
            (_, text), self._ready = self._ready, None
            return text
        return self._read_block() or b""

    def _read_block(self) -> bytes | None:
        """The text of the block at the first mark, which is taken away with every mark inside the block."""
        begin = self._marks[0][0]
        reach = 1
        while True:
            while len(self._marks) <= reach and self._extend():
                pass
            if len(self._marks) <= reach or self._marks[reach][0] - begin > 8 * _MAX_BLOCK_BYTES:
                break
            text = self._decompress(begin, self._marks[reach][0])
            if text is not None:
                del self._marks[:reach]
                self._drop_before(self._marks[0][0] // 8)
                self._first = False
                return text
            reach += 1
        if self._first and self._start and self._is_inside_a_block(begin):
            self._first = False
            return None
        if reach == 1 and self._at_end:
            raise MccError(
                f"{self.path}: truncated: the compressed block at byte {begin // 8} has no end", "get the file again"
            )
        raise MccError(
            f"{self.path}: damaged: the compressed block at byte {begin // 8} cannot be read", "get it again"
        )

    def _is_inside_a_block(self, bit: int) -> bool:
        """Whether the mark at `bit` is one by chance. If so, all marks of that block are taken away."""
        with Bzip2Reader(self.path, max(0, self._start - _MAX_BLOCK_BYTES)) as before:
            while (not before._marks or before._marks[-1][0] <= bit) and before._extend():
                pass
            for index in [i for i, (place, kind) in enumerate(before._marks) if place < bit and kind == _BLOCK][::-1]:
                begin = before._marks[index][0]
                reach = index + 1
                while begin // 8 + _MAX_BLOCK_BYTES > before._scanned and before._extend():
                    pass
                for place, _ in before._marks[reach:]:
                    if place - begin > 8 * _MAX_BLOCK_BYTES:
                        break
                    if before._decompress(begin, place) is None:
                        continue
                    if place <= bit:
                        return False  # a whole block ends before the mark
                    while self._marks and self._marks[0][0] < place:
                        del self._marks[0]
                    return True
        return False

    def _decompress(self, begin: int, end: int) -> bytes | None:
        """The bits from `begin` to `end` as a stream of their own, or None if they are no block."""
        first, last = begin // 8 - self._base, (end + 7) // 8 - self._base
        bits = int.from_bytes(self._data[first:last], "big") >> (-end % 8)
        bits &= (1 << (end - begin)) - 1
        length = end - begin
        if length < _MARK_BITS + 32:
            return None
        # A stream ends with its mark and the checksum of its blocks, for a single one that block's own.
        checksum = (bits >> (length - _MARK_BITS - 32)) & 0xFFFFFFFF
        bits = (((bits << _MARK_BITS) | _END) << 32) | checksum
        length += _MARK_BITS + 32
        bits <<= -length % 8
        decompressor = bz2.BZ2Decompressor()
        try:
            text = decompressor.decompress(b"BZh9" + bits.to_bytes((length + 7) // 8, "big"))
        except OSError:
            return None
        return text if decompressor.eof else None

    def _drop_before(self, byte: int) -> None:
        self._data = self._data[byte - self._base :]
        self._base = byte

    def _extend(self) -> bool:
        """Read more of the file and note the marks in it; False at its end."""
        if self._at_end:
            return False
        more = self._file.read(_READ_BYTES)
        self._at_end = len(more) < _READ_BYTES
        self._data += more
        end = self._base + len(self._data)
        # A mark and the byte it ends in must be there whole.
        limit = end if self._at_end else end - 7
        found = []
        for pattern, shift, mark in _PATTERNS:
            lead = 1 if shift else 0
            at = self._data.find(pattern, self._scanned - self._base + lead)
            while at >= 0 and at - lead + self._base < limit:
                begin = 8 * (at - lead) + shift
                if self._bits(begin) == mark:
                    found.append((8 * self._base + begin, mark))
                at = self._data.find(pattern, at + 1)
        self._marks += sorted(found)
        self._scanned = limit
        return True

    def _bits(self, begin: int) -> int:
        """The 48 bits of `_data` from bit `begin`."""
        spread = self._data[begin // 8 : begin // 8 + 7].ljust(7, b"\0")
        return (int.from_bytes(spread, "big") >> (8 - begin % 8)) & ((1 << _MARK_BITS) - 1)


def check_ends(path: Path) -> bytes:
    """The text of the last blocks of a file whose beginning and end look as they should.

    Raises:
        MccError: it is no bzip2 file, or it is cut off.
    """
    with path.open("rb") as file:
        head = file.read(4)
    if not (head[:3] == b"BZh" and head[3:].isdigit()):
        raise MccError(f"{path}: not a bzip2 file", "get it again, or give it the ending of what it is")
    with Bzip2Reader(path, max(0, path.stat().st_size - 2 * _MAX_BLOCK_BYTES)) as reader:
        return b"".join(iter(reader.read, b""))
