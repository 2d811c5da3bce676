"""torch.distributed.checkpoint folders read by one process, a tensor at a time, without a process group."""

from __future__ import annotations

import io
import logging
import pathlib
import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import filesystem, metadata, planner

from mcc.ckpt.dcp_tensor import NotPlain, map_saved
from mcc.ckpt.dcp_write import METADATA
from mcc.ckpt.foreign import reason, stand_in
from mcc.ckpt.pieces import LoadPieces, Piece
from mcc.core.errors import MccError

__all__ = ["METADATA", "DcpFolder"]

_CLASSES: dict[tuple[str, str], Any] = {
    **{
        (metadata.__name__, name): getattr(metadata, name)
        for name in (
            *("Metadata", "TensorStorageMetadata", "BytesStorageMetadata", "TensorProperties"),
            *("ChunkStorageMetadata", "MetadataIndex", "StorageMeta", "_MEM_FORMAT_ENCODING"),
        )
    },
    (filesystem.__name__, "_StorageInfo"): filesystem._StorageInfo,
    ("torch", "Size"): torch.Size,
    ("torch.serialization", "_get_layout"): torch.serialization._get_layout,
    ("collections", "OrderedDict"): dict,
    # Where the writer stood. It is not used, and must be readable on another kind of machine.
    **{
        (module, name): pathlib.PurePosixPath
        for module in ("pathlib", "pathlib._local")
        for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
    },
}


_PLANS = ("SavePlan", "WriteItem", "WriteItemType", "TensorWriteData", "BytesIOWriteData")


class _MetadataUnpickler(pickle.Unpickler):
    """Knows what describes tensors, and nothing that could do something."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _CLASSES:
            return _CLASSES[module, name]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        # Megatron core adds to torch's description what its own saver and loader want to know: the ranks' plans.
        if module == planner.__name__ and name in _PLANS:
            return stand_in(name)
        if module.partition(".")[0] == "megatron":
            return metadata.Metadata if name == "MCoreMetadata" else stand_in(name)
        raise pickle.UnpicklingError(f"it mentions {module}.{name}, which describes no tensors: refused")


class _Reader(dcp.FileSystemReader):
    def __init__(self, folder: Path, known: metadata.Metadata) -> None:
        super().__init__(folder)
        self._known = known

    def read_metadata(self, *args: Any, **kwargs: Any) -> metadata.Metadata:
        return self._known


class DcpFolder:
    """The tensors of a torch.distributed.checkpoint folder, whole, whatever the layout that saved them.

    Raises:
        MccError: `.metadata` is missing, malformed, or mentions a class that describes no tensors.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        file = folder / METADATA
        try:
            self._metadata = _MetadataUnpickler(io.BytesIO(file.read_bytes())).load()
            entries = self._metadata.state_dict_metadata.items()
            found = {key: value for key, value in entries if isinstance(value, metadata.TensorStorageMetadata)}
            self._chunks: dict[str, list[Any]] = {}
            for index, where in self._metadata.storage_data.items():
                self._chunks.setdefault(index.fqn, []).append(where)
        except Exception as error:  # a damaged pickle raises almost anything
            raise MccError(f"{file} cannot be read: {error}", "the checkpoint is incomplete or not ours") from error
        if self._metadata.storage_meta is None:
            self._metadata.storage_meta = metadata.StorageMeta()
        self.stored: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
            key: (value.properties.dtype, tuple(value.size)) for key, value in found.items()
        }

    def read(self, key: str) -> Tensor:
        """The whole tensor saved under `key`.

        Raises:
            MccError: there is no such key, or a file that holds a part of it is missing or truncated.
        """
        _, shape = self._described(key)
        return self._box(key, (0,) * len(shape), shape)

    def read_part(self, key: str, dim: int, start: int, length: int) -> Tensor:
        """The tensor saved under `key` from `start` on along `dim`; only the stored boxes that it overlaps are read.

        Raises:
            MccError: as `read`.
        """
        _, shape = self._described(key)
        begin = tuple(start if i == dim else 0 for i in range(len(shape)))
        return self._box(key, begin, tuple(length if i == dim else size for i, size in enumerate(shape)))

    def _box(self, key: str, begin: tuple[int, ...], sizes: tuple[int, ...]) -> Tensor:
        try:
            return self._mapped(key, begin, sizes)
        except NotPlain:
            return self._by_torch(key, begin, sizes)
        except (RuntimeError, OSError) as error:
            raise MccError(f"{self.folder}: tensor {key} cannot be read: {error}") from error

    def _by_torch(self, key: str, begin: tuple[int, ...], sizes: tuple[int, ...]) -> Tensor:
        dtype, shape = self.stored[key]
        box = torch.empty(sizes, dtype=dtype)
        self._load(key, Piece(box, begin, shape), LoadPieces())
        return box

    def _described(self, key: str) -> tuple[torch.dtype, tuple[int, ...]]:
        if key not in self.stored:
            raise MccError(f"{self.folder} has no tensor {key}")
        self._check(key)
        return self.stored[key]

    def _mapped(self, key: str, begin: tuple[int, ...], sizes: tuple[int, ...]) -> Tensor:
        """The box from mapped files; what lies in one stored box is not copied."""
        dtype, _ = self.stored[key]
        out = torch.empty(sizes, dtype=dtype) if 0 in sizes else None
        found = 0
        for chunk in self._metadata.state_dict_metadata[key].chunks:
            spans = [
                (max(at, start), min(at + size, start + length))
                for at, size, start, length in zip(begin, sizes, chunk.offsets, chunk.sizes, strict=True)
            ]
            if any(first >= last for first, last in spans):
                continue
            part = self._map_chunk(key, chunk)
            for dim, ((first, last), start) in enumerate(zip(spans, chunk.offsets, strict=True)):
                part = part.narrow(dim, first - start, last - first)
            if part.shape == sizes:
                return part
            target = out = torch.empty(sizes, dtype=dtype) if out is None else out
            for dim, ((first, last), at) in enumerate(zip(spans, begin, strict=True)):
                target = target.narrow(dim, first - at, last - first)
            target.copy_(part)
            found += part.numel()
        if out is None or found != out.numel():
            raise NotPlain
        return out

    def _map_chunk(self, key: str, chunk: metadata.ChunkStorageMetadata) -> Tensor:
        where = self._metadata.storage_data.get(metadata.MetadataIndex(key, chunk.offsets))
        if where is None or getattr(where, "transform_descriptors", None):
            raise NotPlain
        part = map_saved(self.folder / where.relative_path, where.offset, where.length)
        if part.dtype != self.stored[key][0] or part.shape != chunk.sizes:
            raise NotPlain
        return part

    def _load(self, key: str, target: Piece, planner: dcp.LoadPlanner) -> None:
        try:
            with _quiet():
                reader = _Reader(self.folder, self._metadata)
                dcp.load({key: target}, storage_reader=reader, planner=planner, no_dist=True)
        # torch's own exception for a failed step is no Exception.
        except (dcp.CheckpointException, RuntimeError, OSError, ValueError, EOFError, pickle.UnpicklingError) as error:
            raise MccError(f"{self.folder}: tensor {key} cannot be read: {reason(_cause(error))}") from error

    def file_of(self, key: str) -> Path | None:
        """The file that holds the tensor saved under `key`, or the first part of it."""
        return next((self.folder / chunk.relative_path for chunk in self._chunks.get(key, ())), None)

    def check_files(self) -> None:
        """Check that every file is there and long enough. Reads no tensors.

        Raises:
            MccError: one is missing or truncated.
        """
        for key in self._chunks:
            self._check(key)

    def _check(self, key: str) -> None:
        for chunk in self._chunks.get(key, ()):
            file, end = self.folder / chunk.relative_path, chunk.offset + chunk.length
            if file.resolve().parent != self.folder.resolve() or not file.is_file():
                raise MccError(f"missing file {file}: tensor {key} is in it", "copy the whole folder again")
            if file.stat().st_size < end:
                raise MccError(
                    f"{file} is truncated in tensor {key}: it ends at byte {file.stat().st_size}, not {end}",
                    "copy the whole folder again",
                )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's remark that there is one process: that is the intent."""
    log = logging.getLogger("torch.distributed.checkpoint")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _cause(error: BaseException) -> BaseException:
    """What went wrong below torch's exception for a failed step, which holds one failure for every rank."""
    failures = getattr(error, "failures", None) or {}
    return next((cause for cause, _ in failures.values()), error)
