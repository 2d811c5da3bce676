"""The first stage's embedding, and its tokens' part as the tied output layer.

B batch   T tokens   D hidden size   V padded vocabulary   P tensor-parallel ranks
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcc.models.base.axes import Axes
from mcc.models.base.blueprint import Blueprint
from mcc.models.base.config import ModelConfig
from mcc.models.base.dropout import dropout
from mcc.models.base.extras import Extras
from mcc.models.base.layers import Norm, Weights


class Embedding(nn.Module):
    """Tokens, sharded over the vocabulary, positions, token types, a norm; the last stage has the tokens alone."""

    def __init__(self, config: ModelConfig, blueprint: Blueprint, axes: Axes, first: bool) -> None:
        super().__init__()
        D = config.hidden_size
        self.axes, self.dropout = axes, config.hidden_dropout
        self.rows = config.padded_vocab_size(axes.size) // axes.size
        self.tokens = Weights(self.rows, D)
        self.first_position = blueprint.first_position
        learned = first and blueprint.positions == "learned"
        self.positions = Weights(self.first_position + config.positions, D) if learned else None
        self.types = Weights(config.num_tokentypes, D) if first and blueprint.token_types else None
        self.norm = Norm(config, blueprint) if first and blueprint.order == "post" else None

    def forward(self, tokens_BT: Tensor, extras: Extras, dtype: torch.dtype | None = None) -> Tensor:
        """Hidden states [B, T, D] in `dtype` of tokens [B, T]; with sequence parallelism this rank's [B, T/P, D]."""
        x = self._found(tokens_BT)
        if self.types is not None:
            # Where there is one type, two segments are of the same.
            types = extras.token_types if len(self.types.weight) > 1 else None
            x = x + (self.types.weight[0] if types is None else F.embedding(types, self.types.weight))
        if self.positions is not None:
            positions = extras.positions
            if positions is None:
                positions = self.axes.positions(tokens_BT.shape[1], tokens_BT.device)
            x = x + F.embedding(positions + self.first_position, self.positions.weight)
        if self.norm is not None:
            x = self.norm(x)
        x = self.axes.own_tokens(x if dtype is None else x.to(dtype))
        return dropout(x, self.dropout, extras, "embedding", self.axes.token_shard)

    def _found(self, tokens_BT: Tensor) -> Tensor:
        if self.axes.size == 1:
            return F.embedding(tokens_BT, self.tokens.weight)
        local = tokens_BT - self.axes.rank * self.rows
        elsewhere = (local < 0) | (local >= self.rows)
        found = F.embedding(local.masked_fill(elsewhere, 0), self.tokens.weight)
        return self.axes.sum_vocab(found.masked_fill(elsewhere.unsqueeze(-1), 0.0))
