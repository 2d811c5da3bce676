"""Masked tokens, and whether the halves of a sample stand in order."""

from __future__ import annotations

import torch
from torch import Tensor

from mcc.models.base.axes import Axes
from mcc.models.base.config import ModelConfig
from mcc.train.batch import Batch
from mcc.train.objective import Objective, Output, class_losses, token_losses, token_weight


class MaskedLM(Objective):
    """Cross-entropy of the masked tokens, and with the head `pretraining` that of the pair's label (BERT).

    The first is a mean over masked tokens, the second over samples, as in Megatron-LM.
    """

    heads = ("lm", "pretraining")

    def parts(self, config: ModelConfig) -> tuple[str, ...]:
        return ("lm_loss", "pair_loss") if config.head == "pretraining" else ("loss",)

    def loss(self, output: Output, batch: Batch, axes: Axes, config: ModelConfig) -> Tensor:
        if isinstance(output, Tensor):
            return token_losses(output, batch, axes, config).reshape(1)
        logits, pair = output
        return torch.stack([token_losses(logits, batch, axes, config), class_losses(pair, batch)])

    def weight(self, batch: Batch, config: ModelConfig) -> Tensor:
        tokens = token_weight(batch)
        if config.head != "pretraining":
            return tokens.reshape(1)
        return torch.stack([tokens, batch["label_weights"].sum()])
