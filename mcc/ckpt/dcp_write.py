"""torch.distributed.checkpoint folders written by one process, a tensor at a time: one file and `.metadata`."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from isal.isal_zlib import crc32_combine
from torch import Tensor
from torch.distributed.checkpoint import metadata
from torch.distributed.checkpoint.filesystem import CURRENT_DCP_VERSION, _StorageInfo

from mcc.ckpt.ahead import ahead
from mcc.ckpt.torch_write import Later, TorchWriter
from mcc.core.errors import MccError
from mcc.core.files import Output

METADATA = ".metadata"
_FILE = "__0_0.distcp"

Entries = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]


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

    items = [(key, Later(*entry)) for key, entry in entries.items()]
    storage: dict[Any, _StorageInfo] = {}
    described: dict[str, Any] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        at = crc32 = 0
        with Output(folder / _FILE) as out:
            for (key, later), tensor in ahead(items, lambda item: read(item[0]).contiguous(), _size, workers):
                dtype, shape = later.dtype, later.shape
                writer = TorchWriter(out, later)
                writer.put(later, tensor)
                writer.finish()
                item = writer.archive
                zeros = torch.Size([0] * len(shape))
                chunk = metadata.ChunkStorageMetadata(offsets=zeros, sizes=torch.Size(shape))
                described[key] = metadata.TensorStorageMetadata(
                    properties=metadata.TensorProperties(dtype=dtype), size=torch.Size(shape), chunks=[chunk]
                )
                storage[metadata.MetadataIndex(key, zeros, 0)] = _StorageInfo(_FILE, at, item.size_bytes)
                crc32 = crc32_combine(crc32, item.crc32, item.size_bytes)
                at += item.size_bytes
                advance(later.size_bytes)
                del tensor  # before the next one
        whole = metadata.Metadata(
            state_dict_metadata=described,
            storage_data=storage,
            storage_meta=metadata.StorageMeta(),  # not where and when: the same tensors give the same bytes
            version=CURRENT_DCP_VERSION,
        )
        (folder / METADATA).write_bytes(pickle.dumps(whole))
    except OSError as error:
        raise MccError(f"cannot write {folder}: {error.strerror}", "is the disk full?") from error
    return {_FILE: {"bytes": at, "crc32": f"{crc32:08x}"}}


def _size(item: tuple[str, Later]) -> int:
    return item[1].size_bytes
