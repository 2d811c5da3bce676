"""Distributed checkpoints laid out as Megatron core lays them out: torch.distributed.checkpoint and plain values.

After megatron-core 0.16: dist_checkpointing/strategies/torch.py, transformer/transformer_block.py and mlp.py,
optimizer/optimizer.py. A tensor is given with the offsets of its parts, as several ranks save it.
"""

from __future__ import annotations

import json
import logging
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType

Offsets = tuple[int, ...]


class Parts(Tensor):
    """A tensor as its ranks hold it: cut along some axes (torch's `_Checkpointable` protocol, as Megatron core's)."""

    @staticmethod
    def __new__(cls, whole: Tensor, cuts: Mapping[int, int]) -> Parts:
        return torch.Tensor._make_wrapper_subclass(cls, whole.shape, dtype=whole.dtype)  # type: ignore[attr-defined]

    def __init__(self, whole: Tensor, cuts: Mapping[int, int]) -> None:
        self.whole_shape = whole.shape
        self.held: dict[Offsets, Tensor] = {(0,) * whole.dim(): whole}
        for axis, count in cuts.items():
            finer: dict[Offsets, Tensor] = {}
            for offsets, tensor in self.held.items():
                at = 0
                for part in tensor.chunk(count, axis):
                    finer[(*offsets[:axis], offsets[axis] + at, *offsets[axis + 1 :])] = part.clone()
                    at += part.shape[axis]
            self.held = finer

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise NotImplementedError("only saved")

    def __create_write_items__(self, fqn: str, _: object) -> list[WriteItem]:
        return [
            WriteItem(
                index=MetadataIndex(fqn, torch.Size(offsets), number),
                type=WriteItemType.SHARD,
                tensor_data=TensorWriteData(
                    chunk=ChunkStorageMetadata(torch.Size(offsets), part.shape),
                    properties=TensorProperties.create_from_tensor(part),
                    size=self.whole_shape,
                ),
            )
            for number, (offsets, part) in enumerate(self.held.items())
        ]

    def __create_chunk_list__(self) -> list[ChunkStorageMetadata]:
        return [ChunkStorageMetadata(torch.Size(offsets), part.shape) for offsets, part in self.held.items()]

    def __get_tensor_shard__(self, index: MetadataIndex) -> Tensor:
        assert index.offset is not None
        return self.held[tuple(index.offset)]


def write(folder: Path, tensors: Mapping[str, Parts], common: Mapping[str, Any]) -> None:
    """A checkpoint in `folder`, and the tracker beside it."""
    folder.mkdir(parents=True)
    state = {**tensors, **{f"decoder.layers.mlp._extra_state/shard_{i}_2": _bytes() for i in range(2)}}
    log = logging.getLogger("torch.distributed.checkpoint")
    level = log.level
    log.setLevel(logging.ERROR)
    dcp.save(state, storage_writer=dcp.FileSystemWriter(folder), no_dist=True)
    log.setLevel(level)
    torch.save(dict(common), folder / "common.pt")
    config = {"sharded_backend": "torch_dist", "sharded_backend_version": 1, "common_backend": "torch"}
    (folder / "metadata.json").write_text(json.dumps(config))
    (folder.parent / "latest_checkpointed_iteration.txt").write_text(str(int(folder.name.removeprefix("iter_"))))


def _bytes() -> Any:
    import io

    return io.BytesIO(b"anything")


def stacked(layers: Sequence[Tensor], axis: int | None = None, tp: int = 1) -> Parts:
    """One tensor for all layers, saved by a stage for each layer and cut along `axis` of a layer."""
    whole = torch.stack(list(layers))
    return Parts(whole, {0: len(layers), **({} if axis is None else {axis + 1: tp})})


def args(**sizes: Any) -> Namespace:
    """Megatron-LM's arguments, as far as they tell what the model is."""
    values: dict[str, Any] = {
        "num_layers": 4, "hidden_size": 32, "num_attention_heads": 4, "group_query_attention": False,
        "num_query_groups": 1, "ffn_hidden_size": 128, "kv_channels": 8, "max_position_embeddings": 16,
        "seq_length": 16, "norm_epsilon": 1e-5, "make_vocab_size_divisible_by": 8, "padded_vocab_size": 304,
        "vocab_size": 301, "normalization": "LayerNorm", "swiglu": False, "add_bias_linear": True,
        "position_embedding_type": "learned_absolute", "untie_embeddings_and_output_weights": False,
        "tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 2, "data_parallel_size": 1,
        "consumed_train_samples": 40,
    }  # fmt: skip
    return Namespace(**(values | sizes))
