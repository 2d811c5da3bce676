"""Attention of some queries over some keys, the piece that ring attention is made of.

    B batch   np query heads   ng key/value heads   Tq queries   Tk keys   hd channels of a head

A softmax over all keys is put together from the softmaxes over blocks of them by each block's log-sum-exp (online
softmax, Milakov and Gimelshein, arXiv 1805.02867). Backward each block needs the whole softmax's log-sum-exp and output
alone (FlashAttention, arXiv 2205.14135, section 3.1), so no block keeps its weights. torch's fused kernels give and
take exactly these. Statistics are float32 (float64 for float64 inputs).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_aten = torch.ops.aten
_SCORES = 1 << 22  # the plain path looks at so many scores at once, so that its memory doesn't grow with Tq x Tk


@dataclass(frozen=True)
class Rule:
    """Which keys the queries see.

    Attributes:
        causal: Tq = Tk, and query i sees the keys 0..i.
        padding: [B, Tk] of bool, True where there is a key to be seen; None: everywhere.
        dropout: probability that an attention weight is dropped.
        seed: of the weights that are dropped; the same one gives the same.
    """

    causal: bool = False
    padding: Tensor | None = None
    dropout: float = 0.0
    seed: int = 0


# What a kernel's backward needs besides the tensors: its random state.
State = tuple[Any, ...]


def attend(q: Tensor, k: Tensor, v: Tensor, rule: Rule) -> tuple[Tensor, Tensor, State]:
    """Attention of a block.

    Args:
        q: [B, np, Tq, hd]. k, v: [B, ng, Tk, hd]; query head h reads key/value head h // (np / ng).

    Returns:
        The output [B, np, Tq, hd] in q's dtype, zero where a query sees no key; the log-sum-exp of the scores
        [B, np, Tq], -inf there; what `gradients` wants to have as `state`.
    """
    out, lse, state = _fused(q, k, v, rule) if _has_kernel(q, rule) else _plain(q, k, v, rule)
    blind = _blind(rule)
    if blind is not None:
        out, lse = out.masked_fill(blind.unsqueeze(-1), 0.0), lse.masked_fill(blind, -torch.inf)
    return out, lse, state


def gradients(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, rule: Rule, state: State
) -> tuple[Tensor, Tensor, Tensor]:
    """A block's part of the gradients of q, k and v.

    Args:
        grad: gradient of the whole output [B, np, Tq, hd], contiguous.
        out, lse: the output and log-sum-exp over all keys, of all blocks; +inf where a query sees none.
        state: as `attend` returned it for this block.
    """
    backward = _fused_backward if _has_kernel(q, rule) else _plain_backward
    return backward(grad, q, k, v, out, lse, rule, state)


def merge(out: Tensor, lse: Tensor, more: Tensor, more_lse: Tensor) -> None:
    """Take another block's output and log-sum-exp into `out` and `lse`, in place."""
    total = torch.logaddexp(lse, more_lse)
    finite = total.masked_fill(total == -torch.inf, 0.0)  # no key so far: both weights are exp(-inf)
    out.mul_((lse - finite).exp_().unsqueeze(-1))
    out.addcmul_(more.to(out.dtype), (more_lse - finite).exp_().unsqueeze(-1))
    lse.copy_(total)


def _blind(rule: Rule) -> Tensor | None:
    """[B, 1, Tq or 1]: where a query of the block sees no key at all."""
    if rule.padding is None:
        return None
    seen = rule.padding.cummax(-1).values if rule.causal else rule.padding.any(-1, keepdim=True)
    return ~seen.bool().unsqueeze(1)


def _has_kernel(q: Tensor, rule: Rule) -> bool:
    if q.device.type == "cpu":
        return not rule.dropout
    return q.device.type == "cuda" and q.dtype != torch.float64 and q.shape[-1] % 8 == 0


def _flash(q: Tensor, rule: Rule) -> bool:
    if rule.padding is not None or q.dtype == torch.float32 or q.shape[-1] > 256:
        return False
    return torch.cuda.get_device_capability(q.device) >= (8, 0)  # Ampere


def _fused(q: Tensor, k: Tensor, v: Tensor, rule: Rule) -> tuple[Tensor, Tensor, State]:
    if q.device.type == "cpu":
        op = _aten._scaled_dot_product_flash_attention_for_cpu
        out, lse = op(q, k, v, 0.0, rule.causal, attn_mask=_bias(q, rule))
        return out, lse, ()
    with torch.random.fork_rng([q.device] if rule.dropout else [], enabled=rule.dropout > 0):
        if rule.dropout:
            torch.cuda.manual_seed(rule.seed)
        if _flash(q, rule):
            out, lse, *state = _aten._scaled_dot_product_flash_attention(q, k, v, rule.dropout, rule.causal)
            return out, lse, tuple(state[:6])
        k, v = _each_head(q, k), _each_head(q, v)
        bias = _bias_of_kernel(q, k, rule)
        op = _aten._scaled_dot_product_efficient_attention
        out, lse, *state = op(q, k, v, bias, True, rule.dropout, rule.causal)
    return out, lse[..., : q.shape[2]], tuple(state)


def _fused_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, rule: Rule, state: State
) -> tuple[Tensor, Tensor, Tensor]:
    if q.device.type == "cpu":
        op = _aten._scaled_dot_product_flash_attention_for_cpu_backward
        return op(grad, q, k, v, out, lse, 0.0, rule.causal, attn_mask=_bias(q, rule))
    if _flash(q, rule):
        cum_q, cum_k, max_q, max_k, seed, offset = state
        op = _aten._scaled_dot_product_flash_attention_backward
        return op(
            grad, q, k, v, out, lse.contiguous(), cum_q, cum_k, max_q, max_k, rule.dropout, rule.causal, seed, offset
        )
    k_all, v_all = _each_head(q, k), _each_head(q, v)
    bias = _bias_of_kernel(q, k_all, rule)
    rows = F.pad(lse, (0, -lse.shape[-1] % 32), value=torch.inf)  # as the kernel's forward pass lays it out
    op = _aten._scaled_dot_product_efficient_attention_backward
    wanted = [True, True, True, False]
    dq, dk, dv, _ = op(grad, q, k_all, v_all, bias, out, rows, *state, rule.dropout, wanted, rule.causal)
    return dq, _of_groups(dk, k), _of_groups(dv, v)


def _bias(q: Tensor, rule: Rule) -> Tensor | None:
    """What padding adds to the scores: [B, 1, 1, Tk]."""
    if rule.padding is None:
        return None
    zero = torch.zeros((), dtype=q.dtype, device=q.device)
    return zero.where(rule.padding, -torch.inf)[:, None, None, :]


def _bias_of_kernel(q: Tensor, k: Tensor, rule: Rule) -> Tensor | None:
    """The same as the CUDA kernel wants it: [B, np, Tq, Tk], rows that begin at a multiple of 16 bytes."""
    bias = _bias(q, rule)
    if bias is None:
        return None
    Tk = k.shape[2]
    padded = F.pad(bias, (0, -Tk % 8))
    return padded[..., :Tk].expand(q.shape[0], q.shape[1], q.shape[2], Tk)


def _each_head(q: Tensor, k: Tensor) -> Tensor:
    """k[B, ng, Tk, hd] with a copy for each query head, where the kernel knows no groups."""
    return k if q.shape[1] == k.shape[1] else k.repeat_interleave(q.shape[1] // k.shape[1], 1)


def _of_groups(grad: Tensor, k: Tensor) -> Tensor:
    """The inverse for gradients: those of a group's heads added."""
    B, ng, Tk, hd = k.shape
    return grad if grad.shape[1] == ng else grad.view(B, ng, -1, Tk, hd).sum(2)


# The plain path: some queries at a time. G query heads of a key/value head; scores are [B, ng, G x rows, Tk].


def _plain(q: Tensor, k: Tensor, v: Tensor, rule: Rule) -> tuple[Tensor, Tensor, State]:
    keys, values = _wide(k), _wide(v)
    out, lse = torch.empty_like(q), torch.empty(q.shape[:3], dtype=keys.dtype, device=q.device)
    for rows, scores, factor in _slabs(q, keys, rule):
        total = torch.logsumexp(scores, -1)
        weights = (scores - total.masked_fill(total == -torch.inf, 0.0).unsqueeze(-1)).exp_()
        if factor is not None:
            weights *= factor
        shape = (q.shape[0], q.shape[1], rows.stop - rows.start)
        out[:, :, rows] = (weights @ values).view(*shape, -1)
        lse[:, :, rows] = total.view(shape)
    return out, lse, ()


def _plain_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, rule: Rule, state: State
) -> tuple[Tensor, Tensor, Tensor]:
    keys, values = _wide(k), _wide(v)
    scale = 1 / math.sqrt(q.shape[-1])
    dq, dk, dv = torch.empty_like(q), torch.zeros_like(keys), torch.zeros_like(values)
    for rows, scores, factor in _slabs(q, keys, rule):
        grouped = [_grouped(_wide(x[:, :, rows]), k) for x in (q, grad, out)]
        queries, dout, o = grouped
        weights = (scores - lse[:, :, rows].reshape(scores.shape[:-1]).unsqueeze(-1)).exp_()
        dweights = dout @ values.mT
        if factor is None:
            dv += weights.mT @ dout
        else:
            dv += (weights * factor).mT @ dout
            dweights *= factor
        dscores = weights.mul_(dweights.sub_((dout * o).sum(-1, keepdim=True))).mul_(scale)
        dq[:, :, rows] = (dscores @ keys).view(dq[:, :, rows].shape)
        dk += dscores.mT @ queries
    return dq, dk.to(k.dtype), dv.to(v.dtype)


def _slabs(q: Tensor, keys: Tensor, rule: Rule) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
    """(rows of the queries, their scores [B, ng, G x rows, Tk], what dropout multiplies their weights with)."""
    B, np, Tq, hd = q.shape
    ng, Tk = keys.shape[1:3]
    step = max(1, _SCORES // (B * np * Tk))
    generator = torch.Generator(q.device).manual_seed(rule.seed)
    for start in range(0, Tq, step):
        rows = slice(start, min(start + step, Tq))
        count = rows.stop - rows.start
        scores = (_grouped(_wide(q[:, :, rows]), keys) @ keys.mT) * (1 / math.sqrt(hd))
        masked = scores.view(B, ng, -1, count, Tk)
        if rule.causal:
            later = torch.ones(count, Tk, dtype=torch.bool, device=q.device).triu(1 + start)
            masked.masked_fill_(later, -torch.inf)
        if rule.padding is not None:
            masked.masked_fill_(~rule.padding[:, None, None, None, :], -torch.inf)
        factor = None
        if rule.dropout:
            drawn = torch.rand(scores.shape, dtype=torch.float32, device=q.device, generator=generator)
            factor = (drawn >= rule.dropout).to(scores.dtype) / (1 - rule.dropout)
        yield rows, scores, factor


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _grouped(x: Tensor, keys: Tensor) -> Tensor:
    """x[B, np, rows, hd] as [B, ng, G x rows, hd]."""
    return x.reshape(x.shape[0], keys.shape[1], -1, x.shape[-1])
