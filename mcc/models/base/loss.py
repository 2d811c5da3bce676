"""Cross-entropy over a vocabulary that is sharded: no rank ever holds the full logits (arXiv 1909.08053, section 3).

N positions   V padded vocabulary   P tensor-parallel ranks
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mcc.models.base.axes import Axes


class _VocabParallel(torch.autograd.Function):
    """Besides the logits one tensor of their size exists: exp, then the probabilities, then the gradient, in place."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, axes: Axes, vocab_size: int) -> Tensor:
        rows = logits.shape[-1]
        first = axes.rank * rows
        real = max(0, min(rows, vocab_size - first))  # padding rows are no tokens
        if real:
            top = logits[..., :real].amax(-1).float()
        else:
            top = torch.full(logits.shape[:-1], -torch.inf, device=logits.device)
        top = axes.max_(top)
        exp = torch.sub(logits, top.unsqueeze(-1)).exp_()
        exp[..., real:] = 0.0
        local = targets - first
        here = (local >= 0) & (local < rows)
        index = local.clamp(0, rows - 1).unsqueeze(-1)
        picked = (logits.gather(-1, index).squeeze(-1) - top).masked_fill(~here, 0.0)
        total, picked = axes.sum_(torch.stack([exp.sum(-1), picked]))  # one message for both
        ctx.probabilities = exp.div_(total.unsqueeze(-1))
        ctx.save_for_backward(index, here)
        ctx.dtype = logits.dtype
        return total.log() - picked

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        index, here = ctx.saved_tensors
        if ctx.probabilities is None:
            raise RuntimeError("cross_entropy's backward pass runs once: it turns the probabilities into the gradient")
        grad, ctx.probabilities = ctx.probabilities, None
        grad.scatter_add_(-1, index, -here.unsqueeze(-1).to(grad.dtype))
        return grad.mul_(grads[0].unsqueeze(-1)).to(ctx.dtype), None, None, None


def cross_entropy(logits_NV: Tensor, targets_N: Tensor, axes: Axes, vocab_size: int) -> Tensor:
    """Per-position cross-entropy [N] in nats.

    Args:
        logits_NV: this rank's slice [..., V/P] of the logits.
        targets_N: global token ids [...], each below `vocab_size`.
        axes: the parallel axes.
        vocab_size: tokens without padding; padded logits count as minus infinity.
    """
    loss: Tensor = _VocabParallel.apply(logits_NV, targets_N, axes, vocab_size)
    return loss
