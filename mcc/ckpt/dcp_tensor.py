"""One tensor as torch.distributed.checkpoint keeps it in the middle of a file, mapped instead of read.

It is what `torch.save` writes (https://docs.pytorch.org/docs/stable/notes/serialization.html): an uncompressed zip
archive with archive/data.pkl, which describes the tensor, and archive/data/0, its storage.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from mcc.ckpt.dtypes import STORED
from mcc.ckpt.tensor_files import map_tensor

_NAME_LENGTHS, _LOCAL_HEADER = 26, 30


class NotPlain(Exception):
    """The archive is not as `torch.save` writes a tensor of plain numbers: torch itself has to read it."""


class _Window(io.RawIOBase):
    """Bytes [start, start + length) of a file, as a file."""

    def __init__(self, stream: BinaryIO, start: int, length: int) -> None:
        self._stream, self._start, self._length, self._at = stream, start, length, 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._length}[whence]
        return self._at

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = max(self._length - self._at, 0)
        self._stream.seek(self._start + self._at)
        data = self._stream.read(left if size < 0 else min(size, left))
        self._at += len(data)
        return data


class _Unpickler(pickle.Unpickler):
    """Knows one tensor of plain numbers, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _description
        if module == "torch" and name in STORED:
            return STORED[name]
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        raise pickle.UnpicklingError(f"{module}.{name}")

    def persistent_load(self, identity: Any) -> tuple[torch.dtype, str]:
        _, dtype, key, _, _ = identity
        return dtype, key


def _description(storage: tuple[torch.dtype, str], offset: int, shape: Any, stride: Any, *rest: Any) -> Any:
    return storage, offset, tuple(shape), tuple(stride)


def map_saved(file: Path, start: int, length: int) -> Tensor:
    """The tensor that was saved at bytes [start, start + length) of `file`.

    Raises:
        NotPlain: torch has to read it.
        OSError: the file cannot be read.
    """
    try:
        with file.open("rb", buffering=0) as stream, zipfile.ZipFile(_Window(stream, start, length)) as archive:
            members = {name.partition("/")[2]: info for name, info in ((i.filename, i) for i in archive.infolist())}
            (dtype, key), offset, shape, stride = _Unpickler(io.BytesIO(archive.read(members["data.pkl"]))).load()
            if "byteorder" in members and archive.read(members["byteorder"]) != b"little":
                raise NotPlain
            info = members[f"data/{key}"]
            stream.seek(start + info.header_offset + _NAME_LENGTHS)
            lengths = stream.read(4)
        before = _LOCAL_HEADER + int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")
        numbers = map_tensor(file, start + info.header_offset + before, dtype, (info.file_size // dtype.itemsize,))
        if info.compress_type != zipfile.ZIP_STORED or min((offset, *shape, *stride), default=0) < 0:
            raise NotPlain
        if 0 in shape:
            return torch.empty(shape, dtype=dtype)
        return numbers.as_strided(shape, stride, offset)  # torch refuses what is beyond the storage
    except (
        *(pickle.UnpicklingError, zipfile.BadZipFile, EOFError, LookupError, RuntimeError),
        *(TypeError, ValueError, AttributeError, NotImplementedError),
    ) as error:
        raise NotPlain from error
