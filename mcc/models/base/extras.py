"""What accompanies a micro-batch through all stages besides its hidden states."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Attending(Protocol):
    """Who sees whom, where that is not all before itself."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key: str) -> Tensor:
        """Softmax attention [B, np, T, hd] of q[B, np, T, hd] over k, v[B, ng, T, hd]; `key`: place in the model."""


@dataclass(frozen=True)
class Randomness:
    """The random numbers of one micro-batch, a stream for each place in the model.

    A stream comes from these values and the place alone: not from the layout, nor from what was drawn before, so a
    recomputed layer draws the same numbers again. `microbatch` counts over all replicas.
    """

    seed: int
    step: int
    microbatch: int

    def seed_of(self, key: str, shard: int = 0) -> int:
        """The seed of the stream of place `key`; ranks that hold different shards of a tensor give their own."""
        text = f"{self.seed}/{self.step}/{self.microbatch}/{key}/{shard}"
        return zlib.crc32(text.encode()) << 32 | zlib.crc32(text[::-1].encode())

    def generator(self, key: str, device: torch.device, shard: int = 0) -> torch.Generator:
        """A generator at the start of that stream."""
        return torch.Generator(device).manual_seed(self.seed_of(key, shard))

    @contextmanager
    def drawing(self, key: str, device: torch.device, shard: int = 0) -> Iterator[None]:
        """Within the block torch's own random state is that stream: for operations that take no generator."""
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(self.seed_of(key, shard))
            yield


@dataclass(frozen=True)
class Extras:
    """Tensors of a micro-batch that layers and heads look at, this rank's tokens of them. B samples, T tokens.

    Attributes:
        padding: [B, T] of bool, True where a token is; None: everywhere.
        token_types: [B, T] segment of each token (BERT).
        random: what dropout draws from; None: no dropout (evaluation).
        positions: [B, T] or [T], the position of each token; None: those that `Axes.positions` gives.
        reading: attends in the axes' place, for evaluation: new tokens alone, of sequences whose keys and values a
            cache has (`mcc.models.base.cache`), or sequences that share their beginning.
    """

    padding: Tensor | None = None
    token_types: Tensor | None = None
    random: Randomness | None = None
    positions: Tensor | None = None
    reading: Attending | None = None


NO_EXTRAS = Extras()
