"""`torch.save` files written a tensor at a time: what they hold is said first, the numbers follow in any order.

`torch.load` reads them like its own, memory-mapped too. For the layout see `mcc.ckpt.torch_read`; every storage starts
at a multiple of 64 bytes, as torch's do.
"""

from __future__ import annotations

import io
import math
import pickle
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mcc.ckpt.dtypes import STORAGES
from mcc.ckpt.stored_zip import StoredZip
from mcc.ckpt.torch_read import contiguous_stride
from mcc.core.files import Output


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
        if tensor.dtype in STORAGES:
            return "storage", STORAGES[tensor.dtype], value.key, "cpu", math.prod(tensor.shape)
        return "storage", torch.UntypedStorage, value.key, "cpu", tensor.size_bytes

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
        if later.dtype in STORAGES:
            return torch._utils._rebuild_tensor_v2, arguments
        return torch._utils._rebuild_tensor_v3, (*arguments, later.dtype)


class TorchWriter:
    """Writes `value` to `out`, from where that stands now on; every `Later` in it has to be `put` before the end.

    Attributes:
        archive: what is written to; knows its size and checksum.
    """

    def __init__(self, out: Output, value: Any, root: str = "archive") -> None:
        text = io.BytesIO()
        pickler = _Pickler(text)
        pickler.dump(value)
        self._keys = dict(pickler.keys)
        self.archive = StoredZip(out, root)
        self.archive.add("data.pkl", text.getvalue())
        self.archive.add("byteorder", b"little")
        for later, tensor in pickler.small.items():
            self.put(later, tensor.detach().cpu())

    def put(self, later: Later, tensor: Tensor) -> None:
        """Write the numbers of `later`."""
        assert tensor.dtype == later.dtype and tuple(tensor.shape) == later.shape, (later, tensor.dtype, tensor.shape)
        self.archive.add(f"data/{self._keys.pop(later)}", bytes_of(tensor), aligned=True)

    def finish(self) -> None:
        """Write what stands after the tensors."""
        assert not self._keys, f"tensors {sorted(self._keys.values())} have not been written"
        self.archive.add("version", b"3\n")
        self.archive.finish()


@contextmanager
def torch_writer(file: Path, value: Any) -> Iterator[TorchWriter]:
    """A `TorchWriter` of `value` for `file`. After an error the file is left as it is."""
    with Output(file) as out:
        writer = TorchWriter(out, value, file.stem)
        yield writer
        writer.finish()


def bytes_of(tensor: Tensor) -> memoryview:
    """The numbers of `tensor` as they are in memory; a copy only where they are not one after the other."""
    return memoryview(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy())
