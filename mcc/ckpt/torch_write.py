"""`torch.save` files written a tensor at a time: what they hold is said first, the numbers follow in any order.

`torch.load` reads them like its own, memory-mapped too. For the layout see `mcc.ckpt.torch_read`; every storage starts
at a multiple of 64 bytes, as torch's do.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from mcc.ckpt.torch_read import contiguous_stride
from mcc.core.files import Output

_STORAGES = {
    torch.float64: torch.DoubleStorage, torch.float32: torch.FloatStorage, torch.float16: torch.HalfStorage,
    torch.bfloat16: torch.BFloat16Storage, torch.int64: torch.LongStorage, torch.int32: torch.IntStorage,
    torch.int16: torch.ShortStorage, torch.int8: torch.CharStorage, torch.uint8: torch.ByteStorage,
    torch.bool: torch.BoolStorage,
}  # fmt: skip
_ALIGNED = 64
_LOCAL_HEADER, _ZIP64_FIELD, _EXTRA_HEADER = 30, 20, 4
_ZIP64 = 1 << 30  # members from this size on have 8-byte sizes; any bound below 2 GiB would do


@dataclass(frozen=True, eq=False)
class Later:
    """Stands for a tensor whose numbers come later."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class _Member:
    key: str
    tensor: Later


class _Pickler(pickle.Pickler):
    """Writes a `Later`, or a small tensor, as torch writes a tensor."""

    def __init__(self, out: io.BytesIO) -> None:
        super().__init__(out, protocol=2)
        self.keys: dict[Later, str] = {}
        self.small: dict[Later, Tensor] = {}

    def persistent_id(self, value: Any) -> Any:
        if not isinstance(value, _Member):
            return None
        tensor = value.tensor
        return "storage", _STORAGES[tensor.dtype], value.key, "cpu", math.prod(tensor.shape)

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            later = Later(value.dtype, tuple(value.shape))
            self.small[later] = value
        elif isinstance(value, Later):
            later = value
        else:
            return NotImplemented
        key = self.keys.setdefault(later, str(len(self.keys)))
        steps = contiguous_stride(later.shape)
        arguments: tuple[Any, ...] = (_Member(key, later), 0, later.shape, steps, False, OrderedDict())
        return torch._utils._rebuild_tensor_v2, arguments


class TorchWriter:
    """Writes `value` to `file`; every `Later` in it has to be `put` before the end.

    Use it in a `with` statement.
    """

    def __init__(self, file: Path, value: Any) -> None:
        out = io.BytesIO()
        pickler = _Pickler(out)
        pickler.dump(value)
        self._keys, self._root = dict(pickler.keys), file.stem
        self._out = Output(file)
        self._archive = zipfile.ZipFile(self._out, "w", zipfile.ZIP_STORED)
        self._text("data.pkl", out.getvalue())
        self._text("byteorder", b"little")
        for later, tensor in pickler.small.items():
            self.put(later, tensor.detach().cpu())

    def put(self, later: Later, tensor: Tensor) -> None:
        """Write the numbers of `later`."""
        assert tensor.dtype == later.dtype and tuple(tensor.shape) == later.shape, (later, tensor.dtype, tensor.shape)
        name = f"{self._root}/data/{self._keys.pop(later)}"
        info = zipfile.ZipInfo(name)  # of the year 1980: the same tensors give the same bytes
        large = later.size_bytes >= _ZIP64
        before = self._archive.start_dir + _LOCAL_HEADER + len(name) + _EXTRA_HEADER + (_ZIP64_FIELD if large else 0)
        padding = -before % _ALIGNED
        info.extra = b"FB" + padding.to_bytes(2, "little") + b"Z" * padding
        with self._archive.open(info, "w", force_zip64=large) as out:
            out.write(memoryview(tensor.contiguous().view(-1).view(torch.uint8).numpy()))

    def __enter__(self) -> TorchWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            assert not self._keys, f"tensors {sorted(self._keys.values())} have not been written"
            self._text("version", b"3\n")
            self._archive.close()
        else:
            self._archive.fp = None  # it is left as it is, also when the archive is forgotten
        self._out.close()

    def _text(self, name: str, data: bytes) -> None:
        self._archive.writestr(zipfile.ZipInfo(f"{self._root}/{name}"), data)
