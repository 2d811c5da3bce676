"""Fresh weights, the same for every layout: each parameter's values come from the seed and its global name alone."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

from mcc.models.base.axes import Axes
from mcc.models.base.config import ModelConfig
from mcc.models.base.family import Family, Param, global_shape
from mcc.models.base.forms import pad_rows, shard
from mcc.models.base.transformer import Stage, scaled_std


def fresh(name: str, row: Param, config: ModelConfig, seed: int) -> Tensor:
    """The whole parameter `name`, without vocabulary padding."""
    shape = global_shape(row, config)
    if row.init in ("zeros", "ones"):
        return torch.full(shape, float(row.init == "ones"))
    std = scaled_std(config) if row.init == "scaled" else config.init_std
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/{name}".encode()))
    return torch.randn(shape, generator=generator) * std


def local(tensor: Tensor, row: Param, config: ModelConfig, axes: Axes) -> Tensor:
    """What the rank of `axes` holds of a whole, unpadded parameter: padded to the layout's vocabulary, then sharded."""
    if row.shape[0] == "V":
        tensor = pad_rows(tensor, config.padded_vocab_size(axes.size))
    return shard(tensor, row.tp_dim, axes.rank, axes.size)


@torch.no_grad()
def initialize(stage: Stage, family: Family, seed: int) -> None:
    """Fill a stage's parameters from `seed`."""
    for name, parameter in stage.named_parameters():
        row = family.row(name)
        parameter.copy_(local(fresh(name, row, stage.config, seed), row, stage.config, stage.axes))
