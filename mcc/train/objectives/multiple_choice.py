"""Which of several choices is right."""

from __future__ import annotations

from torch import Tensor

from mcc.models.base.axes import Axes
from mcc.models.base.config import ModelConfig
from mcc.train.batch import Batch
from mcc.train.objective import Objective, Output, class_losses


class MultipleChoice(Objective):
    """Cross-entropy over the choices of a question, each read by itself and given one number (RACE)."""

    heads = ("multiple-choice",)

    def loss(self, output: Output, batch: Batch, axes: Axes, config: ModelConfig) -> Tensor:
        return class_losses(_by_choice(output, batch), batch).reshape(1)

    def weight(self, batch: Batch, config: ModelConfig) -> Tensor:
        return batch["label_weights"].sum().reshape(1)

    def predictions(self, output: Output, batch: Batch) -> Tensor | None:
        return _by_choice(output, batch).float()


def _by_choice(output: Output, batch: Batch) -> Tensor:
    """[S, choices] of [S * choices, 1]."""
    assert isinstance(output, Tensor)
    return output.reshape(len(batch["labels"]), -1)
