"""Megatron-LM's sequence parallelism (Korthikanti et al., arXiv 2205.05198, section 4.2.2) as autograd functions.

    B batch   T tokens   D hidden size   P tensor-parallel ranks

Between the sharded regions hidden states are [B, T/P, D], rank r the r-th part of the tokens, and norms and dropout
there work on a P-th. A region is entered by an all-gather (g) and left by a reduce-scatter (its transpose), which
together send what plain tensor parallelism's all-reduce sends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mcc.train.compress.collective import Collective

Map = Callable[[Tensor], Tensor]


class _Linear(torch.autograd.Function):
    """A linear map and its transpose."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, there: Map, back: Map) -> Tensor:
        ctx.back = back
        return there(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.back(grads[0]), None, None


def gathered(x: Tensor, gather: Map, scatter: Map) -> Tensor:
    """x[B, T/P, D] of all ranks as [B, T, D] for the sharded region; its gradient is a partial sum on each rank."""
    out: Tensor = _Linear.apply(x, gather, scatter)
    return out


def scattered(x: Tensor, gather: Map, scatter: Map) -> Tensor:
    """This rank's tokens [B, T/P, D] of the sum over ranks of x[B, T, D]."""
    out: Tensor = _Linear.apply(x, scatter, gather)
    return out


def own_tokens(x: Tensor, group: Collective) -> Tensor:
    """This rank's tokens of x[B, T, ...], alike on all ranks; so is its gradient."""
    out: Tensor = _Linear.apply(x, lambda whole: part(whole, group), lambda grad: gather(grad, group))
    return out


def all_tokens(x: Tensor, group: Collective) -> Tensor:
    """x[B, T/P, ...] of all ranks as [B, T, ...], for what all ranks compute alike."""
    out: Tensor = _Linear.apply(x, lambda own: gather(own, group), lambda grad: part(grad, group))
    return out


def part(whole: Tensor, group: Collective) -> Tensor:
    """This rank's part of the tokens of whole[B, T, ...], a copy."""
    return whole.chunk(group.size, 1)[group.rank].clone(memory_format=torch.contiguous_format)


def gather(own: Tensor, group: Collective) -> Tensor:
    """All ranks' own[B, T/P, ...] as [B, T, ...]."""
    return torch.cat(group.gather(own.contiguous()), 1)
