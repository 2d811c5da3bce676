"""What the last stage computes from the hidden states.

    B batch   T tokens   D hidden size   V padded vocabulary   C classes   P tensor-parallel ranks

    lm                logits over the vocabulary, of the next token or of masked ones
    pretraining       the same, and two logits a sample: the sentences' order or succession
    classification    C logits a sample, from its first token
    multiple-choice   one logit a sample: a question with one of its choices
    pooler            tanh(W x), of the first token's x

The samples' first tokens are on the context-parallel rank whose `axes.positions` begin with 0; elsewhere what is
computed from them means nothing.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcc.models.base.axes import Axes
from mcc.models.base.blueprint import LANGUAGE, Blueprint
from mcc.models.base.config import ModelConfig
from mcc.models.base.dropout import dropout
from mcc.models.base.extras import Extras
from mcc.models.base.layers import Linear, Norm, activation

Output: TypeAlias = "Tensor | tuple[Tensor, Tensor]"


class Head(nn.Module):
    """The head that a configuration names. Its output layer's weights are the embedding's, or its caller's."""

    def __init__(self, config: ModelConfig, blueprint: Blueprint, axes: Axes) -> None:
        super().__init__()
        D, kind = config.hidden_size, config.head
        self.axes, self.kind, self.dropout = axes, kind, config.hidden_dropout
        masked = not blueprint.causal and kind in LANGUAGE
        rows = config.padded_vocab_size(axes.size) // axes.size
        self.transform = _Transform(config, blueprint) if masked else None
        self.bias = nn.Parameter(torch.empty(rows)) if masked else None
        self.pooler = Linear(D, D) if kind != "lm" else None
        self.order = Linear(D, 2) if kind == "pretraining" else None
        classes = {"classification": config.num_labels, "multiple-choice": 1}.get(kind, 0)
        self.classifier = Linear(D, classes) if classes else None

    def forward(self, x: Tensor, output: Tensor | None, extras: Extras) -> Output:
        """x[B, T, D] (or [B, T/P, D]) -> see above; logits over the vocabulary are this rank's [B, T, V/P].

        Args:
            x: hidden states after the final norm; without a pooler the dims before D are arbitrary.
            output: this rank's [V/P, D] of the output layer, for the heads that have one.
            extras: what dropout draws from.
        """
        if self.kind == "lm":
            return self._logits(x, output)
        pooled = torch.tanh(self._linear(self.pooler, self.axes.all_tokens(x)[:, 0]))
        if self.kind == "pretraining":
            return self._logits(x, output), self._linear(self.order, pooled)
        if self.classifier is None:
            return pooled
        return self._linear(self.classifier, dropout(pooled, self.dropout, extras, "top", self.axes.context_rank))

    def _logits(self, x: Tensor, output: Tensor | None) -> Tensor:
        assert output is not None
        if self.transform is not None:
            x = self.transform(x)
        x = self.axes.enter_vocab(self.axes.all_tokens(x))
        return F.linear(x, output.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))

    @staticmethod
    def _linear(layer: Linear | None, x: Tensor) -> Tensor:
        assert layer is not None
        out: Tensor = layer(x)
        return out


class _Transform(nn.Module):
    """BERT's layer before the output layer: linear, activation, norm."""

    def __init__(self, config: ModelConfig, blueprint: Blueprint) -> None:
        super().__init__()
        self.dense = Linear(config.hidden_size, config.hidden_size)
        self.activation = activation(blueprint.activation)
        self.norm = Norm(config, blueprint)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.activation(self.dense(x)))
        return out
