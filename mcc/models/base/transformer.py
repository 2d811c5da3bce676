"""The Transformer: a pipeline stage of it, on this rank's tensor-parallel shards.

    B batch   T tokens   D hidden size   V padded vocabulary   P tensor-parallel ranks

Parameters are plain local tensors. A module's parameter names are the family's global names, so nothing is renamed
between training and a checkpoint: layers are keyed by their global index.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcc.models.base.axes import Axes
from mcc.models.base.config import ModelConfig
from mcc.models.base.extras import Extras

_NONE = Extras()


class Weights(nn.Module):
    """A weight and perhaps a bias, local shapes, uninitialised."""

    def __init__(self, *shape: int, bias: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(*shape))
        self.bias = nn.Parameter(torch.empty(bias)) if bias else None


class Norm(Weights):
    """Layer norm over D."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config.hidden_size, bias=config.hidden_size)
        self.epsilon = config.layernorm_epsilon

    def forward(self, x_BTD: Tensor) -> Tensor:
        return F.layer_norm(x_BTD, self.weight.shape, self.weight, self.bias, self.epsilon)


class ColumnParallel(Weights):
    """A linear layer whose outputs are sharded: x[B, T, in] replicated -> [B, T, out/P]."""

    def __init__(self, inputs: int, outputs: int, axes: Axes, key: str) -> None:
        super().__init__(outputs // axes.size, inputs, bias=outputs // axes.size)
        self.axes, self.key = axes, key

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.axes.enter(x, self.key), self.weight, self.bias)


class RowParallel(Weights):
    """A linear layer whose inputs are sharded: x[B, T, in/P] -> [B, T, out] replicated; the bias is added once."""

    def __init__(self, inputs: int, outputs: int, axes: Axes, key: str) -> None:
        super().__init__(outputs, inputs // axes.size, bias=outputs)
        self.axes, self.key = axes, key

    def forward(self, x: Tensor) -> Tensor:
        return self.axes.leave(F.linear(x, self.weight), self.key) + self.bias


class Attention(nn.Module):
    """Causal self-attention over this rank's heads."""

    def __init__(self, config: ModelConfig, axes: Axes, key: str) -> None:
        super().__init__()
        D = config.hidden_size
        self.heads, self.head_dim = config.num_attention_heads // axes.size, config.head_dim
        self.qkv = ColumnParallel(D, 3 * D, axes, f"{key}.qkv")
        self.out = RowParallel(D, D, axes, f"{key}.out")

    def forward(self, x_BTD: Tensor) -> Tensor:
        B, T, _ = x_BTD.shape
        fused = self.qkv(x_BTD).view(B, T, self.heads, 3, self.head_dim)
        q, k, v = fused.permute(3, 0, 2, 1, 4)  # each [B, heads, T, head_dim]
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(mixed.transpose(1, 2).reshape(B, T, -1))


class MLP(nn.Module):
    """D -> F -> D with GELU (tanh form, as GPT-2)."""

    def __init__(self, config: ModelConfig, axes: Axes, key: str) -> None:
        super().__init__()
        self.up = ColumnParallel(config.hidden_size, config.ffn_size, axes, f"{key}.up")
        self.down = RowParallel(config.ffn_size, config.hidden_size, axes, f"{key}.down")

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x_BTD), approximate="tanh"))


class Layer(nn.Module):
    """A pre-LN Transformer layer."""

    def __init__(self, config: ModelConfig, axes: Axes, index: int) -> None:
        super().__init__()
        self.norm1 = Norm(config)
        self.attention = Attention(config, axes, f"layers.{index}.attention")
        self.norm2 = Norm(config)
        self.mlp = MLP(config, axes, f"layers.{index}.mlp")

    def forward(self, x_BTD: Tensor) -> Tensor:
        x_BTD = x_BTD + self.attention(self.norm1(x_BTD))
        return x_BTD + self.mlp(self.norm2(x_BTD))


class Embedding(nn.Module):
    """Token embedding sharded over the vocabulary, and learned positions; the last stage has the tokens alone."""

    def __init__(self, config: ModelConfig, axes: Axes, positions: bool) -> None:
        super().__init__()
        self.axes = axes
        self.rows = config.padded_vocab_size(axes.size) // axes.size
        self.tokens = Weights(self.rows, config.hidden_size)
        self.positions = Weights(config.seq_length, config.hidden_size) if positions else None

    def forward(self, tokens_BT: Tensor) -> Tensor:
        local = tokens_BT - self.axes.rank * self.rows
        elsewhere = (local < 0) | (local >= self.rows)
        found = F.embedding(local.masked_fill(elsewhere, 0), self.tokens.weight)
        tokens = self.axes.sum_vocab(found.masked_fill(elsewhere.unsqueeze(-1), 0.0))
        assert self.positions is not None
        return tokens + self.positions.weight[: tokens_BT.shape[1]]

    def logits(self, x_BTD: Tensor) -> Tensor:
        """This rank's slice of the output layer, tied to the tokens: [B, T, V/P]."""
        return F.linear(self.axes.enter_vocab(x_BTD), self.tokens.weight)


class Stage(nn.Module):
    """Layers `layers` of the model, with the embedding if `first` and the output layer if `last`.

    forward: tokens[B, T] (first) or hidden states[B, T, D] -> hidden states, or this rank's logits[B, T, V/P] (last).
    """

    def __init__(self, config: ModelConfig, axes: Axes, layers: range, first: bool, last: bool) -> None:
        super().__init__()
        config.require_tp(axes.size)
        self.config, self.axes, self.first, self.last = config, axes, first, last
        self.embedding = Embedding(config, axes, positions=first) if first or last else None
        self.layers = nn.ModuleDict({str(i): Layer(config, axes, i) for i in layers})
        self.final_norm = Norm(config) if last else None

    def forward(self, x: Tensor, extras: Extras = _NONE) -> Tensor:
        x = self.hidden(x, extras)
        return self.head(x) if self.last else x

    def hidden(self, x: Tensor, extras: Extras = _NONE) -> Tensor:
        """The hidden states [B, T, D] after this stage's layers."""
        if self.first:
            assert self.embedding is not None
            x = self.embedding(x)
        for layer in self.layers.values():
            x = layer(x)
        return x

    def head(self, x: Tensor) -> Tensor:
        """Hidden states [..., D] to this rank's logits [..., V/P]: a scorer asks only for the positions it needs."""
        assert self.embedding is not None and self.final_norm is not None
        return self.embedding.logits(self.final_norm(x))


def scaled_std(config: ModelConfig) -> float:
    """Megatron-LM's deviation for what writes into the residual stream: std / sqrt(2 x layers)."""
    return config.init_std / math.sqrt(2 * config.num_layers)
