"""How a tensor is laid out in a foreign format, and back. Ours is the first form in each pair.

    D hidden size   np heads   ng key/value heads   r = np / ng   hd channels of a head

The fused projection's rows stand as [ng, r + 2, hd]: a group's queries, its key, its value (Megatron-LM's order since
checkpoint version 2.0; [np, 3, hd] where every head has its own key and value), so that a slice of whole groups is a
contiguous slice of rows and any tensor parallelism shards dim 0.
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

    def join(self, tensors: list[Tensor], config: ModelConfig) -> Tensor:
        """Theirs to ours where theirs is kept as several, one under the other."""
        return self.back(torch.cat(tensors), config)

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of theirs, given the shape of ours."""
        return shape

    def rows(self, config: ModelConfig) -> tuple[int, ...]:
        """Rows of each tensor where theirs is kept as several, one under the other."""
        raise NotImplementedError


class _Same(Form):
    def to(self, tensor: Tensor, config: ModelConfig) -> Tensor:
        return tensor

    def back(self, tensor: Tensor, config: ModelConfig) -> Tensor:
        return tensor


class _Transposed(Form):
    """transformers' Conv1D keeps [in, out] where a linear layer keeps [out, in].

    A view: who writes it makes it one block of memory, and what is turned twice costs nothing.
    """

    def to(self, tensor: Tensor, config: ModelConfig) -> Tensor:
        return tensor.T

    def back(self, tensor: Tensor, config: ModelConfig) -> Tensor:
        return tensor.T

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape[::-1]


class _FusedQKV(Form):
    """Rows [ng, r + 2, hd] to all queries [np, hd], all keys [ng, hd], all values [ng, hd]."""

    def to(self, tensor: Tensor, config: ModelConfig) -> Tensor:
        groups, channels = config.query_groups, config.head_dim
        rows = tensor.reshape(groups, -1, channels, *tensor.shape[1:])
        parts = (rows[:, :-2], rows[:, -2], rows[:, -1])
        return torch.cat([part.reshape(-1, *tensor.shape[1:]) for part in parts])

    def back(self, tensor: Tensor, config: ModelConfig) -> Tensor:
        return self.join(list(tensor.split(self.rows(config))), config)

    def join(self, tensors: list[Tensor], config: ModelConfig) -> Tensor:
        groups, channels, rest = config.query_groups, config.head_dim, tensors[0].shape[1:]
        parts = [tensor.reshape(groups, -1, channels, *rest) for tensor in tensors]
        return torch.cat(parts, dim=1).reshape(-1, *rest)

    def rows(self, config: ModelConfig) -> tuple[int, ...]:
        values = config.query_groups * config.head_dim
        return config.num_attention_heads * config.head_dim, values, values


class _FusedQKVTransposed(_FusedQKV):
    def to(self, tensor: Tensor, config: ModelConfig) -> Tensor:
        return super().to(tensor, config).T

    def back(self, tensor: Tensor, config: ModelConfig) -> Tensor:
        return super().back(tensor.T.contiguous(), config)  # one transposition, then whole rows: faster than at once

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape[::-1]


FORMS: dict[str, Form] = {
    "same": _Same(),
    "transposed": _Transposed(),
    "fused_qkv": _FusedQKV(),
    "fused_qkv_transposed": _FusedQKVTransposed(),
}


def split(tensor: Tensor, form: Form, config: ModelConfig, count: int) -> list[Tensor]:
    """Ours as the `count` tensors that it is there."""
    theirs = form.to(tensor, config)
    return [theirs] if count == 1 else [part.contiguous() for part in theirs.split(form.rows(config))]


def join(tensors: list[Tensor], form: Form, config: ModelConfig) -> Tensor:
    """The inverse of `split`."""
    return form.back(tensors[0], config) if len(tensors) == 1 else form.join(tensors, config)


def split_shapes(shape: tuple[int, ...], form: Form, config: ModelConfig, count: int) -> list[tuple[int, ...]]:
    """The shapes of what `split` gives, for ours of `shape`."""
    theirs = form.shape(shape)
    return [theirs] if count == 1 else [(rows, *theirs[1:]) for rows in form.rows(config)]


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
