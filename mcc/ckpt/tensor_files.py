"""safetensors files, read and written one tensor at a time: a single file, or shards with an index.

The format (https://github.com/huggingface/safetensors): 8 bytes little-endian length, a JSON header with each tensor's
dtype, shape and byte range, then the bytes. The header is checked against the file before any tensor is read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mcc.core.errors import MccError
from mcc.core.events import SILENT, Reporter

_CODES: dict[str, torch.dtype] = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
_NAMES = {dtype: code for code, dtype in _CODES.items()}


@dataclass(frozen=True)
class Stored:
    """One tensor as a file holds it."""

    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]


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
        self._open: dict[Path, Any] = {}
        index = folder / f"{stem}.safetensors.index.json"
        if index.exists():
            for name, file in read_index(index).items():
                if file not in self._open:
                    self._add(file)
                if name not in self.stored:
                    raise MccError(f"{file} has no tensor {name}, which {index.name} places there")
        else:
            self._add(folder / f"{stem}.safetensors")

    def read(self, name: str) -> Tensor:
        """The tensor called `name`, memory-mapped where the platform can."""
        from safetensors import SafetensorError, safe_open

        file = self.stored[name].file
        try:
            if self._open[file] is None:
                self._open[file] = safe_open(file, framework="pt")
            tensor: Tensor = self._open[file].get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise MccError(f"{file}: tensor {name} cannot be read: {error}") from error
        return tensor

    def _add(self, file: Path) -> None:
        for name, value in _read_header(file).items():
            if name == "__metadata__":
                continue
            if value["dtype"] not in _CODES:
                raise MccError(f"{file}: tensor {name} has the unknown dtype {value['dtype']}")
            self.stored[name] = Stored(file, _CODES[value["dtype"]], tuple(value["shape"]))
        self._open[file] = None


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
) -> int:
    """Write `entries` to `folder`, one at a time; returns the bytes of the tensors.

    One file `stem.safetensors` if they fit in `shard_bytes`, else shards and an index, named as transformers does.
    """
    shards = _shards(entries, shard_bytes)
    total = sum(entry.size_bytes for entry in entries)
    with reporter.task("write", total, "B") as task:
        for number, shard in enumerate(shards, 1):
            name = stem if len(shards) == 1 else f"{stem}-{number:05d}-of-{len(shards):05d}"
            _write_file(folder / f"{name}.safetensors", shard, task.advance)
    if len(shards) > 1:
        placed = {
            entry.name: f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors"
            for number, shard in enumerate(shards, 1)
            for entry in shard
        }
        index = {"metadata": {"total_size": total}, "weight_map": placed}
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
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


def _write_file(file: Path, entries: Iterable[Entry], advance: Callable[[float], None]) -> None:
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
    with file.open("wb") as out:
        out.write(len(text).to_bytes(8, "little"))
        out.write(text)
        for entry in ordered:
            tensor = entry.read().contiguous()
            assert tensor.dtype == entry.dtype and tuple(tensor.shape) == entry.shape, entry.name
            out.write(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))
            advance(entry.size_bytes)


def _read_header(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise MccError(f"missing file {file}")
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or 8 + length > size:
            raise MccError(f"{file} is truncated in its header: {size} bytes", "copy it again from where it came")
        try:
            header: dict[str, Any] = json.loads(stream.read(length))
            ends = {name: value["data_offsets"][1] for name, value in header.items() if name != "__metadata__"}
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise MccError(f"{file} is not a safetensors file: {error!r}") from error
    for name, end in ends.items():
        if 8 + length + end > size:
            raise MccError(
                f"{file} is truncated in tensor {name}: it ends at byte {size}, not {8 + length + end}",
                "copy it again from where it came",
            )
    return header
