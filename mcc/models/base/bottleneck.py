"""Codecs that are trained with the model: what is sent goes through fewer channels.

    D hidden size   Z channels that are sent

MCBench's autoencoder (arXiv 2301.02654, section 3.2): E[Z, D] where hidden states are sent, D[D, Z] where they are
received, linear and without bias, trained by the model's loss alone. It stands at the output of a row-parallel layer,
where sum(Y_i) E^T = sum(Y_i E^T) lets tensor-parallel ranks add what is encoded, or between two layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcc.models.base.family import TRAINED, generic
from mcc.models.base.layers import RowParallel

if TYPE_CHECKING:
    from mcc.models.base.transformer import Stage

_NAMES = frozenset(row.name for row in TRAINED)


class Bottleneck(nn.Module):
    """x[..., D] -> [..., Z] -> [..., D], or the end of it that this rank has; local shapes, uninitialised."""

    def __init__(self, hidden: int, sent: int, encoder: bool = True, decoder: bool = True) -> None:
        super().__init__()
        self.encoder = nn.Parameter(torch.empty(sent, hidden)) if encoder else None
        self.decoder = nn.Parameter(torch.empty(hidden, sent)) if decoder else None

    def encode(self, x: Tensor) -> Tensor:
        """x[..., D] -> [..., Z], in the dtype of x; x itself where the encoder is elsewhere."""
        return x if self.encoder is None else F.linear(x, self.encoder.to(x.dtype))

    def decode(self, z: Tensor) -> Tensor:
        """z[..., Z] -> [..., D], in the dtype of z; z itself where the decoder is elsewhere."""
        return z if self.decoder is None else F.linear(z, self.decoder.to(z.dtype))

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))


def is_trained(name: str) -> bool:
    """Whether the global parameter `name` belongs to a trained codec.

    >>> is_trained("layers.3.mlp.down.codec.encoder"), is_trained("layers.3.mlp.down.weight")
    (True, False)
    """
    return generic(name) in _NAMES


def sent_channels(name: str, shape: tuple[int, ...]) -> int:
    """Z of the trained codec's parameter `name` of `shape`."""
    return shape[0 if name.endswith(".encoder") else 1]


def fits(name: str, shape: tuple[int, ...], hidden: int) -> bool:
    """Whether `shape` can be that of the trained codec's parameter `name` in a model of width `hidden`."""
    return len(shape) == 2 and shape[1 if name.endswith(".encoder") else 0] == hidden


def insert(stage: Stage, channels: Mapping[str, int]) -> None:
    """Give a stage trained codecs.

    Args:
        stage: without any.
        channels: the global name of each of its codecs' parameters -> Z.
    """
    for place in trained_places(channels):
        encoder, decoder = (f"{place}.{end}" for end in ("encoder", "decoder"))
        sent = channels.get(encoder) or channels[decoder]
        codec = Bottleneck(stage.config.hidden_size, sent, encoder in channels, decoder in channels)
        owner, _, leaf = place.rpartition(".")
        parent = stage.get_submodule(owner)
        assert owner == "boundaries" or isinstance(parent, RowParallel), f"no codec can stand at {place}"
        setattr(parent, leaf, codec)


def trained_places(names: Iterable[str]) -> list[str]:
    """Where the trained codecs among the global parameters `names` stand.

    >>> trained_places(["boundaries.2.encoder", "boundaries.2.decoder", "final_norm.weight"])
    ['boundaries.2']
    """
    return list(dict.fromkeys(name.rpartition(".")[0] for name in names if is_trained(name)))
