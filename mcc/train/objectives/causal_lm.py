"""The next token of each token."""

from __future__ import annotations

from torch import Tensor

from mcc.models.base.axes import Axes
from mcc.models.base.config import ModelConfig
from mcc.train.batch import Batch
from mcc.train.objective import Objective, Output, token_losses, token_weight


class CausalLM(Objective):
    """Cross-entropy of the next token, in nats, meaned over tokens (GPT, Llama)."""

    heads = ("lm",)

    def loss(self, output: Output, batch: Batch, axes: Axes, config: ModelConfig) -> Tensor:
        assert isinstance(output, Tensor)
        return token_losses(output, batch, axes, config).reshape(1)

    def weight(self, batch: Batch, config: ModelConfig) -> Tensor:
        return token_weight(batch).reshape(1)
