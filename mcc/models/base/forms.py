"""How a tensor is laid out in a foreign format, and back. Ours is the first form in each pair.

    D hidden size   np heads   hd channels of a head

The fused projection's rows stand as [np, 3, hd] (Megatron-LM's order since checkpoint version 2.0), so that a slice
of whole heads is a contiguous slice of rows and any tensor parallelism shards dim 0.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from mcc.models.base.config import ModelConfig


class Form(ABC):
    """A change of layout and its inverse, both exact."""

    @abstractmethod
    def to(self, tensor: Tensor, config: ModelConfig) -> Tensor:
        """Ours to theirs."""

    @abstractmethod
    def back(self, tensor: Tensor, config: ModelConfig) -> Tensor:
        """Theirs to ours."""

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of theirs, given the shape of ours."""
        return shape


class _Same(Form):
    def to(self, tensor: Tensor, config: ModelConfig) -> Tensor:
        return tensor

    def back(self, tensor: Tensor, config: ModelConfig) -> Tensor:
        return tensor


class _Transposed(Form):
    """transformers' Conv1D keeps [in, out] where a linear layer keeps [out, in]."""

    def to(self, tensor: Tensor, config: ModelConfig) -> Tensor:
        return tensor.T.contiguous()

    def back(self, tensor: Tensor, config: ModelConfig) -> Tensor:
        return tensor.T.contiguous()

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape[::-1]


class _FusedQKV(Form):
    """Rows [np, 3, hd] to [3, np, hd]: all queries, all keys, all values."""

    def to(self, tensor: Tensor, config: ModelConfig) -> Tensor:
        heads = config.num_attention_heads
        rows = tensor.reshape(heads, 3, config.head_dim, *tensor.shape[1:])
        return rows.transpose(0, 1).reshape(tensor.shape).contiguous()

    def back(self, tensor: Tensor, config: ModelConfig) -> Tensor:
        heads = config.num_attention_heads
        rows = tensor.reshape(3, heads, config.head_dim, *tensor.shape[1:])
        return rows.transpose(0, 1).reshape(tensor.shape).contiguous()


class _FusedQKVTransposed(_FusedQKV):
    def to(self, tensor: Tensor, config: ModelConfig) -> Tensor:
        return super().to(tensor, config).T.contiguous()

    def back(self, tensor: Tensor, config: ModelConfig) -> Tensor:
        return super().back(tensor.T, config)

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape[::-1]


FORMS: dict[str, Form] = {
    "same": _Same(),
    "transposed": _Transposed(),
    "fused_qkv": _FusedQKV(),
    "fused_qkv_transposed": _FusedQKVTransposed(),
}


def pad_rows(tensor: Tensor, rows: int) -> Tensor:
    """`tensor` with zero rows added at the end up to `rows`, or cut down to `rows`: vocabulary padding."""
    if tensor.shape[0] == rows:
        return tensor
    if tensor.shape[0] > rows:
        return tensor[:rows]
    return torch.cat([tensor, tensor.new_zeros(rows - tensor.shape[0], *tensor.shape[1:])])


def shard(tensor: Tensor, dim: int | None, rank: int, size: int) -> Tensor:
    """This tensor-parallel rank's part of a whole tensor: the rank-th of `size` equal slices of `dim`."""
    if dim is None or size == 1:
        return tensor
    assert tensor.shape[dim] % size == 0, f"dim {dim} of {tuple(tensor.shape)} over {size} ranks"
    return tensor.chunk(size, dim)[rank]
