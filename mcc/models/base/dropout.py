"""Dropout (Srivastava et al. 2014) whose draws depend on the place in the model and not on the layout.

Hidden states are replicated over tensor-parallel ranks, which then draw the same numbers, unless sequence or context
parallelism shards their tokens; attention weights are sharded by heads. Shards draw different numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mcc.models.base.axes import Axes
from mcc.models.base.extras import Extras


def token_shard(axes: Axes) -> int:
    """Which shard of the tokens the hidden states here are."""
    return axes.context_rank * axes.size + (axes.rank if axes.sequence else 0)


def head_shard(axes: Axes) -> int:
    """Which shard of heads and tokens the attention weights here are."""
    return axes.context_rank * axes.size + axes.rank


def dropout(x: Tensor, probability: float, extras: Extras, key: str, shard: int) -> Tensor:
    """x with each element zero with `probability` and scaled by 1 / (1 - probability) otherwise.

    Args:
        x: any shape.
        probability: below 1.
        extras: draws from its `random`; None there: x as it is.
        key: the place in the model.
        shard: ranks that hold different parts of a tensor give their own.
    """
    if not probability or extras.random is None:
        return x
    keep = torch.empty(x.shape, dtype=torch.bool, device=x.device)
    keep.bernoulli_(1 - probability, generator=extras.random.generator(key, x.device, shard))
    return (x * keep).mul_(1 / (1 - probability))
