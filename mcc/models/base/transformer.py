"""The Transformer (Vaswani et al., arXiv 1706.03762): a pipeline stage of it, on this rank's tensor-parallel shards.

    B batch   T tokens   D hidden size   F inner width   V padded vocabulary   P tensor-parallel ranks

Parameters are plain local tensors. A module's parameter names are the family's global names, so nothing is renamed
between training and a checkpoint: layers are keyed by their global index.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mcc.core.errors import MccError
from mcc.models.base.attention import Attention
from mcc.models.base.axes import Axes
from mcc.models.base.blueprint import LANGUAGE, Blueprint
from mcc.models.base.config import ModelConfig
from mcc.models.base.dropout import drop, kept
from mcc.models.base.embedding import Embedding
from mcc.models.base.extras import NO_EXTRAS, Extras
from mcc.models.base.heads import Head, Output
from mcc.models.base.layers import ColumnParallel, Norm, RowParallel, Weights, activation
from mcc.models.base.rotary import Rotation, rotation

Recompute = Literal["none", "selective", "full"]


class MLP(nn.Module):
    """D -> F -> D; with SwiGLU silu(gate) x up in between."""

    def __init__(self, config: ModelConfig, blueprint: Blueprint, axes: Axes, key: str) -> None:
        super().__init__()
        D, F_, bias = config.hidden_size, config.ffn_size, blueprint.bias
        self.gate = ColumnParallel(D, F_, bias, axes, f"{key}.up") if blueprint.activation == "swiglu" else None
        self.up = ColumnParallel(D, F_, bias, axes, f"{key}.up")
        self.down = RowParallel(F_, D, bias, axes, f"{key}.down")
        self.activation = activation(blueprint.activation)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up.axes.enter(x, self.up.key)  # once for both projections
        up = self.up.sharded(x)
        inner = self.activation(up) if self.gate is None else self.activation(self.gate.sharded(x)) * up
        out: Tensor = self.down(inner)
        return out


class Layer(nn.Module):
    """A Transformer layer, pre-LN, post-LN or parallel."""

    def __init__(self, config: ModelConfig, blueprint: Blueprint, axes: Axes, index: int) -> None:
        super().__init__()
        self.axes, self.key, self.dropout = axes, f"layers.{index}", config.hidden_dropout
        self.order = blueprint.order
        self.norm1 = Norm(config, blueprint)
        self.attention = Attention(config, blueprint, axes, f"{self.key}.attention")
        self.norm2 = Norm(config, blueprint)
        self.mlp = MLP(config, blueprint, axes, f"{self.key}.mlp")

    def forward(self, x_BTD: Tensor, extras: Extras, turn: Rotation | None, selective: bool = False) -> Tensor:
        """x[B, T, D] -> [B, T, D], or this rank's tokens [B, T/P, D] of both."""
        return self._compute(x_BTD, extras, turn, selective, *self._keep(x_BTD, extras))

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Have torch.compile compute from now on. What it cannot see, such as random streams, stays outside."""
        self._compute = torch.compile(self._compute, *args, **kwargs)  # type: ignore[method-assign]

    def _compute(
        self,
        x_BTD: Tensor,
        extras: Extras,
        turn: Rotation | None,
        selective: bool,
        keep_mixed: Tensor | None,
        keep_inner: Tensor | None,
    ) -> Tensor:
        if self.order == "parallel":
            mixed = self.attention(self.norm1(x_BTD), extras, turn, selective)
            inner = self.mlp(self.norm2(x_BTD))
            return x_BTD + drop(mixed, keep_mixed, self.dropout) + drop(inner, keep_inner, self.dropout)
        if self.order == "pre":
            mixed = self.attention(self.norm1(x_BTD), extras, turn, selective)
            x_BTD = x_BTD + drop(mixed, keep_mixed, self.dropout)
            return x_BTD + drop(self.mlp(self.norm2(x_BTD)), keep_inner, self.dropout)
        mixed = self.attention(x_BTD, extras, turn, selective)
        x_BTD = self.norm1(x_BTD + drop(mixed, keep_mixed, self.dropout))
        out: Tensor = self.norm2(x_BTD + drop(self.mlp(x_BTD), keep_inner, self.dropout))
        return out

    def _keep(self, x: Tensor, extras: Extras) -> list[Tensor | None]:
        """What dropout keeps of attention's and of the MLP's output, both like x."""
        shard = self.axes.token_shard
        return [kept(x, self.dropout, extras, f"{self.key}.{place}", shard) for place in ("attention", "mlp")]


class Stage(nn.Module):
    """Layers `layers` of the model, with the embedding if `first` and the output layer if `last`.

    forward: tokens[B, T] (first) or hidden states[B, T, D] -> hidden states, or what the head computes (last; see
    `mcc.models.base.heads`). With sequence parallelism hidden states are this rank's [B, T/P, D].

    Attributes:
        recompute: what the backward pass computes again instead of keeping: nothing, softmax(QK)V alone (Korthikanti
            et al., arXiv 2205.05198), or whole layers (Chen et al., arXiv 1604.06174).
        boundaries: trained codecs between layers, or their ends, by the index of the layer before; empty unless a run
            puts some there (`mcc.models.base.bottleneck`).
        compute_dtype: of the hidden states that the embedding gives, and so of all that follow; None: the parameters'.
    """

    recompute: Recompute = "none"
    compute_dtype: torch.dtype | None = None

    def __init__(
        self, config: ModelConfig, blueprint: Blueprint, axes: Axes, layers: range, first: bool, last: bool
    ) -> None:
        super().__init__()
        config.require_tp(axes.size)
        self.config, self.blueprint, self.axes, self.first, self.last = config, blueprint, axes, first, last
        vocabulary = last and config.head in LANGUAGE
        self.shared = vocabulary and not config.untie_embeddings_and_output_weights
        self.embedding = Embedding(config, blueprint, axes, first) if first or self.shared else None
        self.layers = nn.ModuleDict({str(i): Layer(config, blueprint, axes, i) for i in layers})
        self.boundaries, self.before = nn.ModuleDict(), layers.start - 1
        self.final_norm = Norm(config, blueprint) if last and blueprint.order != "post" else None
        self.output = None
        if vocabulary and not self.shared:
            self.output = Weights(config.padded_vocab_size(axes.size) // axes.size, config.hidden_size)
        self.top = Head(config, blueprint, axes) if last else None

    def forward(self, x: Tensor, extras: Extras = NO_EXTRAS) -> Output:
        x = self.hidden(x, extras)
        return self.head(x, extras) if self.last else x

    def hidden(self, x: Tensor, extras: Extras = NO_EXTRAS) -> Tensor:
        """The hidden states after this stage's layers."""
        tokens = x.shape[1] * (1 if self.first or not self.axes.sequence else self.axes.size)
        if self.config.sliding_window is not None:
            # Only some of the tokens may be new ones.
            last = extras.positions
            seen = tokens * self.axes.context_size if last is None else int(last.max()) + 1
            require_window(seen, self.config.sliding_window)
        if self.first:
            assert self.embedding is not None
            x = self.embedding(x, extras, self.compute_dtype)
        turn = None
        if self.blueprint.positions == "rotary":
            positions = self.axes.positions(tokens, x.device) if extras.positions is None else extras.positions
            turn = rotation(self.config, positions, x.dtype)
        x = self._cross(x, str(self.before))
        for index, layer in self.layers.items():
            if self.recompute == "full" and torch.is_grad_enabled():
                # Nothing to restore: dropout draws by place.
                x = checkpoint(layer, x, extras, turn, use_reentrant=False, preserve_rng_state=False)
            else:
                x = layer(x, extras, turn, self.recompute == "selective" and torch.is_grad_enabled())
            x = self._cross(x, index)
        return x

    def _cross(self, x: Tensor, layer: str) -> Tensor:
        """x through the trained codec after a layer, if there is one."""
        if layer not in self.boundaries:
            return x
        return self.axes.cross(x, self.boundaries[layer])

    def head(self, x: Tensor, extras: Extras = NO_EXTRAS) -> Output:
        """Hidden states [..., D] to what the head computes: a scorer asks only for the positions it needs."""
        assert self.top is not None
        if self.final_norm is not None:
            x = self.final_norm(x)
        owner = self.output
        if self.shared:
            assert self.embedding is not None
            owner = self.embedding.tokens
        out: Output = self.top(x, None if owner is None else owner.weight, extras)
        return out


def scaled_std(config: ModelConfig) -> float:
    """Megatron-LM's deviation for what writes into the residual stream: std / sqrt(2 x layers)."""
    return config.init_std / math.sqrt(2 * config.num_layers)


def require_window(seen: int, window: int) -> None:
    """Refuse more tokens than a sliding window holds.

    Raises:
        MccError: there are.
    """
    if seen > window:
        raise MccError(
            f"{seen} tokens are more than the model's sliding window of {window}: attention here has no window",
            f"give at most {window} tokens at a time: in training --seq-length, or --sample-length with --load",
        )
