"""Boxes of whole tensors, saved and loaded through torch.distributed.checkpoint.

A rank holds a box of a tensor: a tensor-parallel shard, or with ZeRO some rows of it. A checkpoint stores boxes and
knows where each belongs, so a rank of any other layout finds what its own boxes overlap.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    ReadItem,
    SavePlan,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from mcc.core.errors import MccError


@dataclass(frozen=True)
class Piece:
    """This rank's box of a whole tensor.

    Attributes:
        tensor: what it holds; may have no elements.
        start: where in the whole tensor it begins, one number a dim.
        whole: the whole tensor's shape.
        any_rows: the stored tensor may have another number of rows (vocabulary padding); rows that it lacks stay as
            they are here.
        ours: nobody changes the tensor any more, so a save in the background needs no copy of it.
    """

    tensor: Tensor
    start: tuple[int, ...]
    whole: tuple[int, ...]
    any_rows: bool = False
    ours: bool = False

    @staticmethod
    def of(value: Tensor | Piece) -> Piece:
        """A tensor as the whole of itself."""
        if isinstance(value, Piece):
            return value
        return Piece(value.detach(), (0,) * value.dim(), tuple(value.shape))

    @staticmethod
    def shard(
        held: Tensor, dim: int | None, rank: int, size: int, rows: tuple[int, int] | None = None, any_rows: bool = False
    ) -> Piece:
        """What a rank holds of a tensor that `size` ranks cut evenly along `dim` (None: each has all of it).

        Args:
            held: the shard, or with `rows` = (first, of how many) so many of the shard's rows from the first on.

        >>> piece = Piece.shard(torch.zeros(2, 8), 0, rank=1, size=4, rows=(3, 5))
        >>> piece.start, piece.whole
        ((8, 0), (20, 8))
        """
        start, whole = [0] * held.dim(), list(held.shape)
        if rows is not None:
            start[0], whole[0] = rows
        if dim is not None:
            start[dim] += rank * whole[dim]
            whole[dim] *= size
        return Piece(held.detach(), tuple(start), tuple(whole), any_rows)

    def copy(self) -> Piece:
        """The same piece of a tensor that nobody else changes, on the CPU: for a save in the background."""
        return replace(self, tensor=self.tensor.detach().to("cpu", copy=True))

    @property
    def chunk(self) -> ChunkStorageMetadata:
        """The box, as torch writes it down."""
        return ChunkStorageMetadata(offsets=torch.Size(self.start), sizes=self.tensor.shape)


class SavePieces(dcp.DefaultSavePlanner):
    """Plans the writing of `{key: tensor or Piece}`; of boxes that several ranks hold alike one is written."""

    def __init__(self) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)

    def create_local_plan(self) -> SavePlan:
        items = []
        for key, value in self.state_dict.items():
            piece = Piece.of(value)
            if not piece.tensor.numel():
                continue
            properties = TensorProperties.create_from_tensor(piece.tensor)
            data = TensorWriteData(chunk=piece.chunk, properties=properties, size=torch.Size(piece.whole))
            index = MetadataIndex(key, torch.Size(piece.start))
            items.append(WriteItem(index=index, type=WriteItemType.SHARD, tensor_data=data))
        self.plan = SavePlan(items)
        return self.plan

    def lookup_object(self, index: MetadataIndex) -> Tensor:
        return Piece.of(self.state_dict[index.fqn]).tensor.detach()


class LoadPieces(dcp.DefaultLoadPlanner):
    """Plans the reading of `{key: tensor or Piece}` in place, from whatever boxes are stored."""

    def __init__(self) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)

    def set_up_planner(
        self, state_dict: Mapping[str, Any], metadata: Metadata | None = None, is_coordinator: bool = False
    ) -> None:
        self.state_dict = dict(state_dict)
        self.metadata, self.is_coordinator = metadata, is_coordinator

    def create_local_plan(self) -> LoadPlan:
        assert self.metadata is not None
        items: list[ReadItem] = []
        for key, value in self.state_dict.items():
            piece, stored = Piece.of(value), self.metadata.state_dict_metadata.get(key)
            if not isinstance(stored, TensorStorageMetadata):
                raise MccError(f"it has no tensor {key}")
            size = (piece.whole[0], *stored.size[1:]) if piece.any_rows else tuple(stored.size)
            if size != piece.whole:
                raise MccError(f"its tensor {key} is {list(stored.size)}, not {list(piece.whole)}")
            if piece.tensor.numel():
                items += create_read_items_for_chunk_list(key, stored, [piece.chunk])
        return LoadPlan(items)

    def resolve_tensor(self, read_item: ReadItem) -> Tensor:
        target = Piece.of(self.state_dict[read_item.dest_index.fqn]).tensor.detach()
        for dim, (start, length) in enumerate(zip(read_item.dest_offsets, read_item.lengths, strict=True)):
            target = target.narrow(dim, start, length)
        return target
