"""Dropout (Srivastava et al. 2014) whose draws depend on the place in the model and not on the layout.

Hidden states are replicated over tensor-parallel ranks, which then draw the same numbers, unless sequence or context
parallelism shards their tokens: shards draw different numbers. Attention weights are sharded by heads, each of which
has numbers of its own; only fused kernels, which draw for themselves, draw for a shard of heads at a time.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mcc.models.base.extras import Extras


def dropout(x: Tensor, probability: float, extras: Extras, key: str, shard: int) -> Tensor:
    """x with each element zero with `probability` and scaled by 1 / (1 - probability) otherwise.

    Args:
        x: any shape.
        probability: below 1.
        extras: draws from its `random`; None there: x as it is.
        key: the place in the model.
        shard: ranks that hold different parts of a tensor give their own.
    """
    return drop(x, kept(x, probability, extras, key, shard), probability)


def kept(x: Tensor, probability: float, extras: Extras, key: str, shard: int) -> Tensor | None:
    """Which elements of a tensor like x stay, of bool, see `dropout`; None: all."""
    if not probability or extras.random is None:
        return None
    keep = torch.empty(x.shape, dtype=torch.bool, device=x.device)
    return keep.bernoulli_(1 - probability, generator=extras.random.generator(key, x.device, shard))


def drop(x: Tensor, keep: Tensor | None, probability: float) -> Tensor:
    """x with the elements that are not in `keep` zero, and the others scaled."""
    return x if keep is None else (x * keep).mul_(1 / (1 - probability))
