"""Self-attention over this rank's heads, with grouped key/value heads (Ainslie et al., arXiv 2305.13245).

B batch   T tokens   D hidden size   ng key/value heads here   r heads that share one   hd channels of a head
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mcc.models.base.axes import Axes
from mcc.models.base.blueprint import Blueprint
from mcc.models.base.config import ModelConfig
from mcc.models.base.extras import Extras, Randomness
from mcc.models.base.layers import ColumnParallel, RowParallel
from mcc.models.base.rotary import Rotation, rotate


class Attention(nn.Module):
    """Queries, keys and values in one projection whose rows stand as [ng, r + 2, hd]: a group's queries, key, value."""

    def __init__(self, config: ModelConfig, blueprint: Blueprint, axes: Axes, key: str) -> None:
        super().__init__()
        D, hd = config.hidden_size, config.head_dim
        heads, groups = config.num_attention_heads, config.query_groups
        self.axes, self.weights, self.causal = axes, f"{key}.weights", blueprint.causal
        self.groups, self.shared, self.head_dim = groups // axes.size, heads // groups, hd
        self.dropout = config.attention_dropout
        self.qkv = ColumnParallel(
            D, (heads + 2 * groups) * hd, blueprint.bias or blueprint.qkv_bias, axes, f"{key}.qkv"
        )
        self.out = RowParallel(heads * hd, D, blueprint.bias, axes, f"{key}.out")

    def forward(self, x_BTD: Tensor, extras: Extras, turn: Rotation | None = None, recompute: bool = False) -> Tensor:
        """x[B, T, D] -> [B, T, D].

        Args:
            extras: padding, and what dropout draws from.
            turn: of the positions of all tokens, for rotary positions.
            recompute: keep queries, keys and values alone for the backward pass.
        """
        fused = self.qkv(x_BTD)
        B, T, _ = fused.shape
        fused = fused.view(B, T, self.groups, self.shared + 2, self.head_dim)
        # split, unlike slices, has one backward pass for all of them.
        if turn is None:
            q, k, v = fused.split([self.shared, 1, 1], 3)
        else:
            turned, v = fused.split([self.shared + 1, 1], 3)
            q, k = rotate(turned, turn).split([self.shared, 1], 3)
            v = v.contiguous()  # else it would keep what was turned
        q, k, v = (x.reshape(B, T, -1, self.head_dim).transpose(1, 2) for x in (q, k, v))
        if extras.reading is not None:
            mixed = extras.reading.attend(q, k, v, self.weights)
            return self.out(mixed.transpose(1, 2).reshape(B, T, -1))
        # Not all of `extras`: torch 2.11 compiles a checkpoint anew for other values of what it is given.
        parts = (q, k, v, extras.padding, extras.random if self.dropout else None)
        if recompute:
            # Nothing to restore: dropout draws by place.
            mixed = checkpoint(self._attend, *parts, use_reentrant=False, preserve_rng_state=False)
        else:
            mixed = self._attend(*parts)
        return self.out(mixed.transpose(1, 2).reshape(B, T, -1))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, padding: Tensor | None, random: Randomness | None) -> Any:
        if random is None:
            return self.axes.attend(q, k, v, self.causal, padding, key=self.weights)
        return self.axes.attend_by_place(q, k, v, self.causal, padding, self.dropout, random, self.weights)
