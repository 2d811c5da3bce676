"""`torch.save` files read a tensor at a time: the file is an index until a tensor is asked for.

Nothing of the file is run or imported: the unpickler below knows tensors and plain values, and whatever else
`mcc.ckpt.foreign` lets pass becomes a stand-in that does nothing. Tensors are read into memory of their own, not
mapped, so that a process holds no more than what it asked for.

The layout (https://docs.pytorch.org/docs/stable/notes/serialization.html): an uncompressed zip archive NAME/data.pkl,
NAME/byteorder, NAME/data/0, NAME/data/1, ...; a tensor in the pickle names its storage, data/N, and a view into it.
"""

from __future__ import annotations

import argparse
import collections
import io
import math
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mcc.ckpt.dtypes import STORED
from mcc.ckpt.foreign import known_name, load_foreign, may_stand_in, require_known, stand_in
from mcc.core.errors import MccError

_STORED = STORED | {"UntypedStorage": torch.uint8}


@dataclass(frozen=True)
class FileTensor:
    """A tensor that is still in its file.

    Attributes:
        file: where it is.
        name: the archive's member that holds its storage, for messages.
        dtype: of its numbers.
        shape: whole.
        stride: in elements; None where its rows stand one after the other.
        start: its first byte in the storage.
        header: where the member's header begins in the file.
        held: the tensor itself, where the file's format is not read in parts.
    """

    file: Path
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...] | None = None
    start: int = 0
    header: int = 0
    held: Tensor | None = None

    def read(self, rows: tuple[int, int] | None = None) -> Tensor:
        """The tensor, or its rows [first, last), in memory of its own.

        Raises:
            MccError: the file is truncated.
        """
        shape = self.shape if rows is None else (rows[1] - rows[0], *self.shape[1:])
        out = torch.empty(shape, dtype=self.dtype)
        self.read_into(out, rows)
        return out

    def read_into(self, out: Tensor, rows: tuple[int, int] | None = None) -> None:
        """Fill `out` with the tensor, or with its rows [first, last).

        Raises:
            MccError: the file is truncated.
        """
        first, last = rows or (0, self.shape[0] if self.shape else 1)
        if not out.numel():
            return
        if self.held is not None:
            out.copy_(self.held[first:last] if self.shape else self.held)
        elif self.stride is not None:
            span = 1 + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))
            flat = torch.empty(span, dtype=self.dtype)
            self._fill(flat, 0)
            out.copy_(flat.as_strided(self.shape, self.stride)[first:last])
        elif out.is_contiguous():
            self._fill(out, first * math.prod(self.shape[1:]))
        else:
            flat = torch.empty(out.shape, dtype=self.dtype)
            self._fill(flat, first * math.prod(self.shape[1:]))
            out.copy_(flat)

    def _fill(self, out: Tensor, skipped: int) -> None:
        """Read as many numbers as `out` has, from the `skipped`-th on."""
        view = memoryview(out.view(-1).view(torch.uint8).numpy())
        with self.file.open("rb", buffering=0) as stream:
            stream.seek(self.header + 26)  # the local header's: its fields here may differ from the directory's
            lengths = stream.read(4)
            name, extra = int.from_bytes(lengths[:2], "little"), int.from_bytes(lengths[2:], "little")
            stream.seek(self.header + 30 + name + extra + self.start + skipped * self.dtype.itemsize)
            done = 0
            while done < len(view):
                count = stream.readinto(view[done:])
                if not count:
                    raise MccError(f"{self.file} is truncated in {self.name}", "copy it again from where it came")
                done += count


@dataclass(frozen=True)
class _Storage:
    info: zipfile.ZipInfo
    dtype: torch.dtype


class _Unpickler(pickle.Unpickler):
    """Turns tensors into `FileTensor`s and foreign classes into stand-ins."""

    def __init__(self, file: Path, data: bytes, members: Mapping[str, zipfile.ZipInfo], root: str) -> None:
        super().__init__(io.BytesIO(data))
        self.file, self.members, self.root = file, members, root
        self.known: dict[tuple[str, str], Any] = {
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._utils", "_rebuild_tensor_v3"): self._typed_tensor,
            ("torch._utils", "_rebuild_parameter"): _first,
            ("torch._utils", "_rebuild_parameter_with_state"): _first,
            ("torch._tensor", "_rebuild_from_type_v2"): _of_type,
            ("torch", "Size"): _size,
            ("torch", "Tensor"): object,
            ("torch.nn.parameter", "Parameter"): object,
            ("argparse", "Namespace"): argparse.Namespace,
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("collections", "Counter"): collections.Counter,
            ("_codecs", "encode"): _nothing,
            ("builtins", "bytearray"): bytearray,
            ("builtins", "set"): set,
            ("builtins", "complex"): complex,
        }

    def find_class(self, module: str, name: str) -> Any:
        module, name = known_name(module, name)
        if (module, name) in self.known:
            return self.known[module, name]
        if module.partition(".")[0] == "torch":
            if module in ("torch", "torch.storage", "torch.cuda") and name in _STORED:
                return _STORED[name]
            if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
                return getattr(torch, name)
            raise pickle.UnpicklingError(f"it mentions {module}.{name}, which no checkpoint needs")
        if not may_stand_in(module):
            raise pickle.UnpicklingError(f"it mentions {module}.{name}, which no checkpoint needs")
        return stand_in(f"{module}.{name}")

    def persistent_load(self, identity: Any) -> _Storage:
        _, dtype, key, _, _ = identity
        name = f"{self.root}/data/{key}"
        if name not in self.members or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"it has no member {name}")
        return _Storage(self.members[name], dtype)

    def _tensor(self, storage: _Storage, offset: int, size: Any, stride: Any, *rest: Any) -> FileTensor:
        return self._make(storage, storage.dtype, offset, size, stride)

    def _typed_tensor(self, storage: _Storage, offset: int, size: Any, stride: Any, *rest: Any) -> FileTensor:
        _, _, dtype, *_ = rest  # whether it has gradients, hooks
        return self._make(storage, dtype, offset, size, stride)

    def _make(self, storage: _Storage, dtype: torch.dtype, offset: int, size: Any, stride: Any) -> FileTensor:
        shape, steps = tuple(map(int, size)), tuple(map(int, stride))
        span = 1 + sum((n - 1) * step for n, step in zip(shape, steps, strict=True)) if math.prod(shape) else 0
        info, start = storage.info, int(offset) * dtype.itemsize
        if min((*shape, *steps, start), default=0) < 0 or start + span * dtype.itemsize > info.file_size:
            raise pickle.UnpicklingError(f"a tensor of shape {list(shape)} does not fit into its {info.filename}")
        plain = steps == contiguous_stride(shape)
        return FileTensor(
            self.file, info.filename, dtype, shape, None if plain else steps, start=start, header=info.header_offset
        )


def contiguous_stride(shape: Sequence[int]) -> tuple[int, ...]:
    """The stride of a tensor whose numbers stand one after the other, as torch counts it.

    >>> contiguous_stride((3, 0, 5))
    (5, 5, 1)
    """
    steps = [1]
    for size in reversed(shape[1:]):
        steps.append(steps[-1] * max(size, 1))
    return tuple(reversed(steps[: len(shape)]))


def by_name(loaded: Any, file: Path) -> dict[str, Any]:
    """What `open_torch` gave of a file that has tensors by name.

    Raises:
        MccError: it has something else.
    """
    if not isinstance(loaded, dict):
        raise MccError(f"{file} holds a {type(loaded).__name__}, not tensors by name")
    return loaded


def open_torch(file: Path) -> Any:
    """The object in `file` with a `FileTensor` for every tensor. The format before torch 1.6 is read whole.

    Raises:
        MccError: the file is missing or truncated, or mentions a name that is not known; then nothing of it was run.
    """
    if file.is_file() and not zipfile.is_zipfile(file):
        return _held(load_foreign(file), file)
    require_known(file)
    try:
        with zipfile.ZipFile(file) as archive:
            members = {info.filename: info for info in archive.infolist()}
            data = next(name for name in members if name.endswith("/data.pkl"))
            root = data.removesuffix("/data.pkl")
            if f"{root}/byteorder" in members and archive.read(f"{root}/byteorder") != b"little":
                raise MccError(f"{file} holds numbers with their high byte first, which are not read")
            if any(info.compress_type != zipfile.ZIP_STORED for name, info in members.items() if "/data/" in name):
                raise MccError(f"{file} is a compressed archive, which torch.save does not write")
            return _Unpickler(file, archive.read(data), members, root).load()
    except StopIteration:
        raise MccError(f"{file} is a zip archive without data.pkl: not a torch.save file") from None
    except pickle.UnpicklingError as error:
        raise MccError(f"{file} is refused: {error}", "only tensors and plain values are read") from error
    except (
        *(OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, OverflowError),
        *(MemoryError, RecursionError, zipfile.BadZipFile),
    ) as error:
        raise MccError(f"{file} cannot be read (truncated?): {error}") from error


def _held(value: Any, file: Path) -> Any:
    """The same for what torch has read."""
    if isinstance(value, Tensor):
        return FileTensor(file, "it", value.dtype, tuple(value.shape), held=value.detach())
    if isinstance(value, Mapping):
        return {key: _held(item, file) for key, item in value.items()}
    return [_held(item, file) for item in value] if isinstance(value, list) else value


def _first(data: Any, *rest: Any) -> Any:
    return data


def _of_type(rebuild: Any, kind: Any, arguments: Any, state: Any) -> Any:
    """A tensor with attributes (Megatron-LM marks how one is cut): they are left out."""
    return rebuild(*arguments)


def _size(sizes: Any = ()) -> tuple[int, ...]:
    return tuple(sizes)


def _nothing(*arguments: Any) -> bytes:
    return b""
