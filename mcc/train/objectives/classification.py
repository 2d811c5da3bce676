"""The class of a sample, or a number."""

from __future__ import annotations

from torch import Tensor

from mcc.models.base.axes import Axes
from mcc.models.base.config import ModelConfig
from mcc.train.batch import Batch
from mcc.train.objective import Objective, Output, class_losses


class Classification(Objective):
    """Cross-entropy of a sample's class; with one class the squared error of a number (STS-B). A mean over samples."""

    heads = ("classification",)

    def loss(self, output: Output, batch: Batch, axes: Axes, config: ModelConfig) -> Tensor:
        assert isinstance(output, Tensor)
        if batch["labels"].is_floating_point():
            errors = (output.float().squeeze(-1) - batch["labels"]).square()
            return (errors * batch["label_weights"]).sum().reshape(1)
        return class_losses(output, batch).reshape(1)

    def weight(self, batch: Batch, config: ModelConfig) -> Tensor:
        return batch["label_weights"].sum().reshape(1)

    def predictions(self, output: Output, batch: Batch) -> Tensor | None:
        assert isinstance(output, Tensor)
        return output.float()
