"""torch.distributed.checkpoint folders written by one process, a tensor at a time: one file and `.metadata`."""

from __future__ import annotations

import math
import pickle
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor
from torch.distributed.checkpoint import metadata
from torch.distributed.checkpoint.filesystem import CURRENT_DCP_VERSION, _StorageInfo

from mcc.ckpt.ahead import ahead
from mcc.core.errors import MccError

METADATA = ".metadata"
_FILE = "__0_0.distcp"

Entries = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]


class _Summed:
    """A file that keeps the CRC-32 of what is written to it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self.crc32, self.bytes = stream, 0, 0

    def write(self, data: Any) -> int:
        self.crc32 = zlib.crc32(data, self.crc32)
        left = memoryview(data).cast("B")
        size = left.nbytes
        while left:
            left = left[self._stream.write(left) :]  # the system takes 2 GiB at a time
        self.bytes += size
        return size

    def tell(self) -> int:
        return self.bytes

    def flush(self) -> None:
        self._stream.flush()


def write_dcp(
    folder: Path,
    entries: Entries,
    read: Callable[[str], Tensor],
    workers: int = 1,
    advance: Callable[[float], None] = lambda size_bytes: None,
) -> dict[str, dict[str, Any]]:
    """Save `entries` to `folder`, calling `read` for one after the other; returns the file's size and checksum.

    Args:
        folder: where to; made.
        entries: key -> dtype and shape of what `read` gives.
        read: the tensor of a key.
        workers: threads that call `read` ahead of the one that writes.
        advance: told of the bytes written.

    Raises:
        MccError: what `read` raised, or the folder cannot be written.
    """
    storage: dict[Any, _StorageInfo] = {}
    described: dict[str, Any] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / _FILE).open("wb", buffering=0) as raw:
            out = _Summed(raw)
            for key, tensor in ahead(entries, read, workers):
                dtype, shape = entries[key]
                assert tensor.dtype == dtype and tuple(tensor.shape) == shape, key
                start = out.tell()
                torch.save(_alone(tensor), out)
                zeros = torch.Size([0] * len(shape))
                chunk = metadata.ChunkStorageMetadata(offsets=zeros, sizes=torch.Size(shape))
                described[key] = metadata.TensorStorageMetadata(
                    properties=metadata.TensorProperties(dtype=dtype), size=torch.Size(shape), chunks=[chunk]
                )
                storage[metadata.MetadataIndex(key, zeros, 0)] = _StorageInfo(_FILE, start, out.tell() - start)
                advance(math.prod(shape) * dtype.itemsize)
        whole = metadata.Metadata(
            state_dict_metadata=described,
            storage_data=storage,
            storage_meta=metadata.StorageMeta(),  # not where and when: the same tensors give the same bytes
            version=CURRENT_DCP_VERSION,
        )
        (folder / METADATA).write_bytes(pickle.dumps(whole))
    except OSError as error:
        raise MccError(f"cannot write {folder}: {error.strerror}", "is the disk full?") from error
    return {_FILE: {"bytes": out.bytes, "crc32": f"{out.crc32:08x}"}}


def _alone(tensor: Tensor) -> Tensor:
    """The tensor with a storage that holds nothing else: `torch.save` writes whole storages."""
    tensor = tensor.detach().contiguous()
    if tensor.untyped_storage().nbytes() == tensor.nbytes:
        return tensor
    return torch.from_numpy(tensor.view(-1).view(torch.uint8).numpy()).view(tensor.dtype).view(tensor.shape)
