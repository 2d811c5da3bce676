"""Uncompressed zip archives, written a member at a time: the frame of `torch.save` files.

PKWARE's APPNOTE 6.3: headers of members (4.3.7), the directory (4.3.12), its end (4.3.14 to 4.3.16), sizes and places
of more than four bytes (4.5.3).
"""

from __future__ import annotations

import struct

from isal.isal_zlib import crc32, crc32_combine

from mcc.core.files import Output

_ALIGNED = 64
_LARGE = 1 << 31  # from here on numbers take 8 bytes; any bound below 4 GiB would do
_FULL, _MANY = 0xFFFFFFFF, 0xFFFF  # say so where there are 4 bytes, and 2 for the number of members
_NO_TIME = (0, 0x21)  # the first of January 1980: the same data gives the same bytes
_PIECE = 1 << 19  # summed, then written: still in the processor's cache


class StoredZip:
    """Writes an archive to `out`, from where that stands now on.

    Attributes:
        size_bytes: written so far.
        crc32: of all that was written so far.
    """

    def __init__(self, out: Output, root: str) -> None:
        self._out, self._root, self._start = out, root, out.tell()
        self._directory: list[bytes] = []
        self.size_bytes = self.crc32 = 0

    def add(self, name: str, data: bytes | memoryview, aligned: bool = False) -> None:
        """Write the member `root/name`, its data at a multiple of 64 bytes of the archive where that is asked for."""
        path, numbers = f"{self._root}/{name}".encode(), memoryview(data)
        at, size = self.size_bytes, numbers.nbytes
        extra = struct.pack("<2H2Q", 1, 16, size, size) if size >= _LARGE else b""
        if aligned:
            padding = -(at + 30 + len(path) + len(extra) + 4) % _ALIGNED
            extra += struct.pack("<2sH", b"FB", padding) + b"Z" * padding
        header = 30 + len(path) + len(extra)
        self._out.seek(header, 1)
        summed = 0
        for first in range(0, size, _PIECE):
            piece = numbers[first : first + _PIECE]
            summed = crc32(piece, summed)
            self._out.write(piece)
        common = _common(path, summed, size)
        self._out.seek(self._start + at)  # the sum stands before the data
        self._write(struct.pack("<4s5H3L2H", b"PK\3\4", *common, len(extra)) + path + extra)
        self.crc32, self.size_bytes = crc32_combine(self.crc32, summed, size), at + header + size
        self._out.seek(self._start + self.size_bytes)
        far = struct.pack("<2Q", size, size) if size >= _LARGE else b""
        far += struct.pack("<Q", at) if at >= _LARGE else b""
        far = far and struct.pack("<2H", 1, len(far)) + far
        entry = struct.pack("<4sH5H3L5H2L", b"PK\1\2", 45, *common, len(far), 0, 0, 0, 0, at if at < _LARGE else _FULL)
        self._directory.append(entry + path + far)

    def finish(self) -> None:
        """Write the directory: the archive is complete."""
        entries, at, count = b"".join(self._directory), self.size_bytes, len(self._directory)
        self._write(entries)
        if at >= _LARGE or count >= _MANY:
            end = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(entries), at)
            self._write(end + struct.pack("<4sLQL", b"PK\6\7", 0, self.size_bytes, 1))
            at, count = _FULL, _MANY
        self._write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(entries), at, 0))

    def _write(self, data: bytes) -> None:
        self._out.write(data)
        self.crc32, self.size_bytes = crc32(data, self.crc32), self.size_bytes + len(data)


def _common(path: bytes, summed: int, size: int) -> tuple[int, ...]:
    """The fields that a member's header and its entry in the directory share."""
    version, named = (45 if size >= _LARGE else 20), (0 if path.isascii() else 0x800)
    shown = size if size < _LARGE else _FULL
    return version, named, 0, *_NO_TIME, summed, shown, shown, len(path)
