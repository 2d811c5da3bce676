"""The bytes of `torch.save(tensor)` without a copy of the tensor's own: what stands before them, and what after.

An uncompressed zip archive (PKWARE's APPNOTE 6.3, sections 4.3.7 to 4.3.16) of archive/data.pkl, archive/byteorder,
archive/data/0 and archive/version; the numbers start at a multiple of 64 bytes, as torch's do.
"""

from __future__ import annotations

import io
import pickle
import struct
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mcc.ckpt.crc import combine

_STORAGES = {
    torch.float64: torch.DoubleStorage, torch.float32: torch.FloatStorage, torch.float16: torch.HalfStorage,
    torch.bfloat16: torch.BFloat16Storage, torch.int64: torch.LongStorage, torch.int32: torch.IntStorage,
    torch.int16: torch.ShortStorage, torch.int8: torch.CharStorage, torch.uint8: torch.ByteStorage,
    torch.bool: torch.BoolStorage,
}  # fmt: skip
_ALIGNED = 64
_LARGEST = 1 << 31  # sizes are 4 bytes in an archive of this kind
_NO_TIME = (0, 0x21)  # the first of January 1980: the same tensors give the same bytes


@dataclass(frozen=True)
class Saved:
    """The parts of a file, one after the other, its bytes and its CRC-32."""

    parts: tuple[Any, ...]
    size_bytes: int
    crc32: int


def saved(tensor: Tensor) -> Saved:
    """What `torch.load` reads as `tensor`; the numbers themselves are a view of it."""
    tensor = tensor.detach().contiguous()
    numbers = memoryview(tensor.view(-1).view(torch.uint8).numpy()) if tensor.numel() else memoryview(b"")
    if tensor.dtype not in _STORAGES or numbers.nbytes >= _LARGEST:
        return _by_torch(tensor)
    before, after = bytearray(), bytearray()
    directory: list[bytes] = []
    for name, data in (("data.pkl", _description(tensor)), ("byteorder", b"little")):
        before += _member(directory, name, len(before), zlib.crc32(data), len(data)) + data
    crc = zlib.crc32(numbers)
    before += _member(directory, "data/0", len(before), crc, numbers.nbytes, aligned=True)
    start = len(before) + numbers.nbytes
    after += _member(directory, "version", start, zlib.crc32(b"3\n"), 2) + b"3\n"
    entries = b"".join(directory)
    after += entries
    count = len(directory)
    after += struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(entries), start + len(after) - len(entries), 0)
    whole = combine(zlib.crc32(before), crc, numbers.nbytes)
    return Saved((bytes(before), numbers, bytes(after)), start + len(after), zlib.crc32(after, whole))


def _member(directory: list[bytes], name: str, at: int, crc: int, size: int, aligned: bool = False) -> bytes:
    """The header of a member that begins at byte `at`; its entry goes to the directory."""
    path = f"archive/{name}".encode()
    extra = b""
    if aligned:
        padding = -(at + 30 + len(path) + 4) % _ALIGNED
        extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    common = (20, 0, 0, *_NO_TIME, crc, size, size, len(path))
    directory.append(struct.pack("<4sH5H3L5H2L", b"PK\1\2", 20, *common, 0, 0, 0, 0, 0, at) + path)
    return struct.pack("<4s5H3L2H", b"PK\3\4", *common, len(extra)) + path + extra


class _Storage:
    pass


class _Described:
    """Pickled as a tensor that is the whole of its storage."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __reduce__(self) -> Any:
        shape = tuple(self.tensor.shape)
        arguments: tuple[Any, ...] = (_Storage(), 0, shape, self.tensor.stride(), False, OrderedDict())
        return torch._utils._rebuild_tensor_v2, arguments


class _Pickler(pickle.Pickler):
    def __init__(self, out: io.BytesIO, tensor: Tensor) -> None:
        super().__init__(out, protocol=2)
        self._tensor = tensor

    def persistent_id(self, value: Any) -> Any:
        if not isinstance(value, _Storage):
            return None
        return "storage", _STORAGES[self._tensor.dtype], "0", "cpu", self._tensor.numel()


def _description(tensor: Tensor) -> bytes:
    out = io.BytesIO()
    _Pickler(out, tensor).dump(_Described(tensor))
    return out.getvalue()


def _by_torch(tensor: Tensor) -> Saved:
    """Of a kind that torch itself writes."""
    out = io.BytesIO()
    torch.save(tensor.clone(), out)
    data = out.getvalue()
    return Saved((data,), len(data), zlib.crc32(data))
