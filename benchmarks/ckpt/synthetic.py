"""Models of any size without meaning: one block of random numbers again and again, made as fast as it is written."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from mcc.ckpt.format import WriteOptions, formats
from mcc.ckpt.source import Meta, Source, expected_shapes
from mcc.models.base.config import ModelConfig

_BLOCK = 1 << 20


class Synthetic(Source):
    """Numbers of deviation 0.02 for a model of `config`."""

    def __init__(self, config: ModelConfig, slots: tuple[str, ...] = (), dtype: torch.dtype = torch.float32) -> None:
        self.meta = Meta(config=config, iteration=100, padded_vocab_size=config.vocab_size)
        self._shapes, self._slots = expected_shapes(config), slots
        self._block = (torch.randn(_BLOCK, generator=torch.Generator().manual_seed(0)) * 0.02).to(dtype)
        self._room = torch.empty(max(map(math.prod, self._shapes.values())) + _BLOCK, dtype=dtype)
        self._room.view(-1)[: len(self._room) // _BLOCK * _BLOCK].view(-1, _BLOCK)[:] = self._block
        self._room[len(self._room) // _BLOCK * _BLOCK :] = 0.5

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return self._shapes

    def dtypes(self) -> dict[str, torch.dtype]:
        return dict.fromkeys(self._shapes, self._block.dtype)

    def read(self, name: str) -> Tensor:
        shape, skip = self._shapes[name], 7 * sum(map(ord, name)) % _BLOCK
        return self._room[skip : skip + math.prod(shape)].view(shape)

    def slots(self) -> tuple[str, ...]:
        return self._slots

    def read_slot(self, slot: str, name: str) -> Tensor:
        return self.read(name).float()


def config_of(family: str, gigabytes: float) -> ModelConfig:
    """A model of `family` of about that many bytes in float32: 24 layers, the width that fits."""
    gated = family == "llama"
    hidden = next(
        hidden
        for hidden in range(256, 1 << 14, 128)
        if 4 * (24 * (12 if not gated else 13) * hidden**2 + 32000 * hidden) >= gigabytes * 1e9
    )
    return ModelConfig(
        family=family,
        num_layers=24,
        hidden_size=hidden,
        ffn_hidden_size=3 * hidden if gated else 4 * hidden,
        num_attention_heads=hidden // 64,
        seq_length=1024,
        vocab_size=32000,
    )


def write(folder: Path, family: str, gigabytes: float, to: str = "hf", slots: tuple[str, ...] = ()) -> int:
    """Write such a model as a folder; returns its bytes."""
    options = WriteOptions(shard_bytes=2_000_000_000)
    return formats.get(to)().write(Synthetic(config_of(family, gigabytes), slots), folder, options).size_bytes
