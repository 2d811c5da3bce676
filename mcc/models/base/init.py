"""Fresh weights, the same for every layout: each parameter's values come from the seed and its global name alone."""

from __future__ import annotations

import math
import zlib

import torch
from torch import Tensor, nn

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
    generator = _stream(name, seed)
    return torch.randn(shape, generator=generator).mul_(std)


def xavier(name: str, shape: tuple[int, int], seed: int) -> Tensor:
    """The matrix `name` [outputs, inputs] of a trained codec."""
    bound = math.sqrt(6 / sum(shape))
    return torch.empty(shape).uniform_(-bound, bound, generator=_stream(name, seed))


def _stream(name: str, seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(f"{seed}/{name}".encode()))


def local(tensor: Tensor, row: Param, config: ModelConfig, axes: Axes) -> Tensor:
    """What the rank of `axes` holds of a whole, unpadded parameter: padded to the layout's vocabulary, then sharded."""
    if row.shape[0] == "V":
        tensor = pad_rows(tensor, config.padded_vocab_size(axes.size))
    return shard(tensor, row.tp_dim, axes.rank, axes.size)


@torch.no_grad()
def initialize(stage: Stage, family: Family, seed: int, device: torch.device | str = "cpu") -> None:
    """Fill a stage's parameters, on `device`, from `seed`; the vocabulary's padding rows with zeros.

    Parameters on the meta device get their memory here, one after the other: besides the stage itself there is never
    more than one whole parameter.
    """
    place = torch.device(device)
    for name, parameter in list(stage.named_parameters()):
        row = family.row(name)
        if row.init == "xavier":
            values = xavier(name, (parameter.shape[0], parameter.shape[1]), seed)
        else:
            values = local(fresh(name, row, stage.config, seed), row, stage.config, stage.axes)
        if parameter.device.type != place.type:
            own = values.to(place)
            # A slice shares the memory of the whole, which would then stay.
            replace(stage, name, own.clone() if own.untyped_storage().nbytes() > own.nbytes else own)
        else:
            parameter.copy_(values)


@torch.no_grad()
def allocate(stage: Stage, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> None:
    """Give parameters on the meta device memory with arbitrary contents, for a checkpoint to fill."""
    for name, parameter in list(stage.named_parameters()):
        if parameter.is_meta:
            replace(stage, name, torch.empty(parameter.shape, dtype=dtype or parameter.dtype, device=device))


def replace(stage: Stage, name: str, values: Tensor) -> None:
    """Let the parameter called `name` be `values` itself."""
    owner, _, leaf = name.rpartition(".")
    setattr(stage.get_submodule(owner), leaf, nn.Parameter(values))
