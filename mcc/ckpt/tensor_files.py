"""Files of tensors by name, read and written one tensor at a time: a single file, or shards with an index.

safetensors, or `torch.save`'s `.bin` files (`mcc.ckpt.torch_read`, which runs nothing of theirs).

The format (https://github.com/huggingface/safetensors): 8 bytes little-endian length, a JSON header with each tensor's
dtype, shape and byte range, then the bytes. The header is checked against the file before any tensor is read.
"""

from __future__ import annotations

import dataclasses
import json
import math
import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mcc.ckpt.ahead import ahead
from mcc.ckpt.torch_read import FileTensor, by_name, open_torch
from mcc.ckpt.torch_write import Later, bytes_of, torch_writer
from mcc.core.errors import MccError
from mcc.core.events import SILENT, Reporter
from mcc.core.files import Output

_CODES: dict[str, torch.dtype] = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
_NAMES = {dtype: code for code, dtype in _CODES.items()}


@dataclass(frozen=True)
class Stored:
    """One tensor as a file holds it; `start` is its first byte."""

    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int = 0


@dataclass(frozen=True)
class Entry:
    """One tensor to write; `read` is called when its turn comes."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    read: Callable[[], Tensor]

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class TensorFiles:
    """The tensors of `folder/stem.safetensors`, or of the shards that `folder/stem.safetensors.index.json` lists.

    Raises:
        MccError: a file is missing, truncated or malformed; names it and the tensor.
    """

    def __init__(self, folder: Path, stem: str = "model") -> None:
        self.stored: dict[str, Stored] = {}
        index = folder / f"{stem}.safetensors.index.json"
        if index.exists():
            placed = read_index(index)
            for file in dict.fromkeys(placed.values()):
                self._add(file)
            for name, file in placed.items():
                if name not in self.stored:
                    raise MccError(f"{file} has no tensor {name}, which {index.name} places there")
        else:
            self._add(folder / f"{stem}.safetensors")

    def read(self, name: str) -> Tensor:
        """The tensor called `name`, memory-mapped (`map_tensor`)."""
        found = self.stored[name]
        try:
            return map_tensor(found.file, found.start, found.dtype, found.shape)
        except (OSError, ValueError) as error:
            raise MccError(f"{found.file}: tensor {name} cannot be read: {error}") from error

    def _add(self, file: Path) -> None:
        header, start = _read_header(file)
        for name, value in header.items():
            if name == "__metadata__":
                continue
            if value["dtype"] not in _CODES:
                raise MccError(f"{file}: tensor {name} has the unknown dtype {value['dtype']}")
            found = Stored(file, _CODES[value["dtype"]], tuple(value["shape"]), start + value["data_offsets"][0])
            if math.prod(found.shape) * found.dtype.itemsize != value["data_offsets"][1] - value["data_offsets"][0]:
                raise MccError(f"{file}: tensor {name} of shape {list(found.shape)} does not fill its place")
            self.stored[name] = found


def map_tensor(file: Path, start: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """The numbers that stand from byte `start` of `file` on, as a tensor that is read when it is looked at.

    Each tensor is a mapping of its own, so that its pages go when it goes. What is changed in it changes no file.

    Raises:
        OSError, ValueError: the file cannot be mapped, or is shorter.
    """
    size_bytes = math.prod(shape) * dtype.itemsize
    if not size_bytes:
        return torch.empty(shape, dtype=dtype)
    before = start % mmap.ALLOCATIONGRANULARITY
    with file.open("rb") as stream:
        pages = mmap.mmap(stream.fileno(), before + size_bytes, access=mmap.ACCESS_COPY, offset=start - before)
    return torch.frombuffer(pages, dtype=dtype, count=math.prod(shape), offset=before).reshape(shape)


class PickledFiles:
    """The tensors of `folder/stem.bin`, or of the shards that `folder/stem.bin.index.json` lists.

    Raises:
        MccError: a file is missing, truncated, malformed or hostile; names it, and a tensor where there is an index.
    """

    def __init__(self, folder: Path, stem: str = "pytorch_model") -> None:
        self._tensors: dict[str, FileTensor] = {}
        index = folder / f"{stem}.bin.index.json"
        if not index.exists():
            self._add(folder / f"{stem}.bin")
        else:
            opened: set[Path] = set()
            for name, file in read_index(index).items():
                if file not in opened:
                    self._add(file, name)
                    opened.add(file)
                if name not in self._tensors:
                    raise MccError(f"{file} has no tensor {name}, which {index.name} places there")
        self.stored = {name: Stored(held.file, held.dtype, held.shape) for name, held in self._tensors.items()}

    def read(self, name: str) -> Tensor:
        """The tensor called `name`, in memory of its own."""
        return self._tensors[name].read()

    def _add(self, file: Path, first: str | None = None) -> None:
        try:
            loaded = open_torch(file)
        except MccError as error:
            raise MccError(error.what, error.hint or (first and f"tensor {first} is in it; copy it again")) from error
        for name, tensor in by_name(loaded, file).items():
            if isinstance(tensor, FileTensor):
                self._tensors[name] = dataclasses.replace(tensor, name=f"tensor {name}")


def read_index(index: Path) -> dict[str, Path]:
    """Tensor name -> shard, from transformers' index file.

    Raises:
        MccError: it is malformed, or a shard is missing (named with the first tensor it should hold).
    """
    try:
        placed = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = {name: index.parent / file for name, file in placed.items()}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise MccError(f"{index} is not an index of shards: {error!r}") from error
    for name, file in files.items():
        if file.resolve().parent != index.parent.resolve():
            raise MccError(f"{index}: tensor {name} lies outside the folder: {file}")
        if not file.is_file():
            raise MccError(f"missing shard {file}: tensor {name} is in it", f"{index.name} lists the shards")
    return files


def write_tensors(
    folder: Path,
    entries: Sequence[Entry],
    stem: str = "model",
    shard_bytes: int = 5_000_000_000,
    reporter: Reporter = SILENT,
    workers: int = 1,
    suffix: str = ".safetensors",
) -> int:
    """Write `entries` to `folder`, one at a time; returns the bytes of the tensors.

    One file `stem.safetensors` if they fit in `shard_bytes`, else shards and an index, named as transformers does. With
    the suffix `.bin` they are torch.save files.
    """
    write = _write_pickled if suffix == ".bin" else _write_file
    shards = _shards(entries, shard_bytes)
    total = sum(entry.size_bytes for entry in entries)
    with reporter.task("write", total, "B") as task:
        for number, shard in enumerate(shards, 1):
            name = stem if len(shards) == 1 else f"{stem}-{number:05d}-of-{len(shards):05d}"
            write(folder / f"{name}{suffix}", shard, task.advance, workers)
    if len(shards) > 1:
        placed = {
            entry.name: f"{stem}-{number:05d}-of-{len(shards):05d}{suffix}"
            for number, shard in enumerate(shards, 1)
            for entry in shard
        }
        index = {"metadata": {"total_size": total}, "weight_map": placed}
        (folder / f"{stem}{suffix}.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return total


def _shards(entries: Sequence[Entry], shard_bytes: int) -> list[list[Entry]]:
    shards: list[list[Entry]] = [[]]
    room = shard_bytes
    for entry in entries:
        if shards[-1] and entry.size_bytes > room:
            shards.append([])
            room = shard_bytes
        shards[-1].append(entry)
        room -= entry.size_bytes
    return shards


def _write_file(file: Path, entries: Sequence[Entry], advance: Callable[[float], None], workers: int) -> None:
    # Widest numbers first, as the reference writer does: then every tensor starts at a multiple of its item size.
    ordered = sorted(entries, key=lambda entry: -entry.dtype.itemsize)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for entry in ordered:
        header[entry.name] = {
            "dtype": _NAMES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [start, start + entry.size_bytes],
        }
        start += entry.size_bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with Output(file) as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for entry, tensor in ahead(ordered, _read, _size, workers):
            assert tensor.dtype == entry.dtype and tuple(tensor.shape) == entry.shape, entry.name
            out.write(bytes_of(tensor))
            advance(entry.size_bytes)
            del tensor  # before the next one


def _write_pickled(file: Path, entries: Sequence[Entry], advance: Callable[[float], None], workers: int) -> None:
    later = {entry.name: Later(entry.dtype, entry.shape) for entry in entries}
    with torch_writer(file, later) as out:
        for entry, tensor in ahead(entries, _read, _size, workers):
            out.put(later[entry.name], tensor)
            advance(entry.size_bytes)
            del tensor  # before the next one


def _read(entry: Entry) -> Tensor:
    return entry.read().contiguous()


def _size(entry: Entry) -> int:
    return entry.size_bytes


def _read_header(file: Path) -> tuple[dict[str, Any], int]:
    """The header, and the first byte after it."""
    if not file.is_file():
        raise MccError(f"missing file {file}")
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or 8 + length > size:
            raise MccError(f"{file} is truncated in its header: {size} bytes", "copy it again from where it came")
        try:
            header: dict[str, Any] = json.loads(stream.read(length))
            ends = {name: _end(value) for name, value in header.items() if name != "__metadata__"}
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise MccError(f"{file} is not a safetensors file: {error!r}") from error
    for name, end in ends.items():
        if 8 + length + end > size:
            raise MccError(
                f"{file} is truncated in tensor {name}: it ends at byte {size}, not {8 + length + end}",
                "copy it again from where it came",
            )
    return header, 8 + length


def _end(value: dict[str, Any]) -> int:
    """The byte after a tensor, counted from the header's end; everything that is said of the tensor makes sense."""
    (start, end), shape = value["data_offsets"], value["shape"]
    if not all(isinstance(number, int) and number >= 0 for number in (start, *shape)) or not isinstance(end, int):
        raise ValueError(f"data_offsets {[start, end]} of shape {shape}")
    return end
