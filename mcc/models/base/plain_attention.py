"""Attention with dropout whose numbers each head draws for itself: the same ones on whatever rank the head is.

For devices without a fused kernel that drops attention weights (CPU), where torch keeps the weights as well.
"""

# B batch   np heads here   ng key/value heads here   Tq, Tk tokens of queries and keys   hd channels of a head

from __future__ import annotations

import torch
from torch import Tensor

from mcc.models.base.extras import Randomness


def attend_with_dropout(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, probability: float, keep: Tensor
) -> Tensor:
    """Softmax attention [B, np, Tq, hd] with the weights alone that are in `keep`, scaled by 1 / (1 - `probability`).

    Args:
        q: [B, np, Tq, hd]. k, v: [B, ng, Tk, hd].
        mask: of bool, broadcast to [B, np, Tq, Tk], True where a token is seen; None: everywhere.
        keep: bool[B, np, Tq, Tk].
    """
    B, np, Tq, hd = q.shape
    ng, Tk = k.shape[1:3]
    # Heads that share keys and values are rows of one matrix.
    scores = (q * hd**-0.5).reshape(B, ng, -1, hd) @ k.mT
    scores = scores.view(B, np, Tq, Tk)
    if mask is not None:
        scores.masked_fill_(~mask, -torch.inf)
    weights = (scores.softmax(-1) * keep).view(B, ng, -1, Tk)
    return (weights @ (v * (1 / (1 - probability)))).view(B, np, Tq, hd)


def kept_weights(q: Tensor, k: Tensor, probability: float, random: Randomness, key: str, rank: int) -> Tensor:
    """Which attention weights stay, each with 1 - `probability`: bool[B, np, Tq, Tk].

    Args:
        q: [B, np, Tq, hd]. k: [B, ng, Tk, hd].
        random: of the micro-batch.
        key: the place in the model.
        rank: of tensor parallelism; its heads are those from rank * np on.
    """
    B, np, Tq, _ = q.shape
    keep = torch.empty(np, B, Tq, k.shape[2], dtype=torch.bool, device=q.device)
    for head, weights in enumerate(keep, rank * np):
        weights.bernoulli_(1 - probability, generator=random.generator(key, q.device, head))
    return keep.transpose(0, 1)
