"""What a training objective is: sums of losses and of weights, so that micro-batches and replicas simply add up."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from mcc.core.errors import UsageError
from mcc.core.plugins import Kind
from mcc.models.base.axes import Axes
from mcc.models.base.config import ModelConfig
from mcc.models.base.family import families
from mcc.models.base.loss import cross_entropy
from mcc.train.batch import Batch

Output: TypeAlias = "Tensor | tuple[Tensor, Tensor]"


class Objective(ABC):
    """A loss in K parts. The run's loss is the sum over parts of (sum of losses) / (sum of weights), both sums over
    all micro-batches, replicas and context-parallel ranks; so no layout changes it.

    Attributes:
        heads: the models' heads whose output it takes.
    """

    heads: ClassVar[tuple[str, ...]]

    def parts(self, config: ModelConfig) -> tuple[str, ...]:
        """The names of the K parts: `loss` when it is the only one."""
        return ("loss",)

    @abstractmethod
    def loss(self, output: Output, batch: Batch, axes: Axes, config: ModelConfig) -> Tensor:
        """float32[K]: the sums over a micro-batch of weight times loss."""

    @abstractmethod
    def weight(self, batch: Batch, config: ModelConfig) -> Tensor:
        """float32[K]: the sums over a batch of the weights."""

    def predictions(self, output: Output, batch: Batch) -> Tensor | None:
        """float32[S, P]: what the model says of each sample, for a task's metrics; None when it says nothing."""
        return None


objectives: Kind[Objective] = Kind("objective", "mcc.train.objectives", Objective)


def objective_of(model: ModelConfig) -> str:
    """The name of the objective that a model with this head is trained for.

    >>> objective_of(ModelConfig(family="gpt2"))
    'causal-lm'

    Raises:
        UsageError: the head is for use, not for training.
    """
    if model.head in ("lm", "pretraining"):
        return "causal-lm" if families.get(model.family).blueprint.causal else "masked-lm"
    for name, objective in objectives.all():
        if model.head in objective.heads:
            return name
    raise UsageError(f"head {model.head} has no objective", "it is for reading hidden states, not for training")


def token_losses(logits: Tensor, batch: Batch, axes: Axes, config: ModelConfig) -> Tensor:
    """The sum over tokens of weight times cross-entropy; logits are this rank's [B, T, V/P]."""
    losses = cross_entropy(logits, batch["targets"], axes, config.vocab_size)
    return (losses * batch["weights"]).sum() if "weights" in batch else losses.sum()


def token_weight(batch: Batch) -> Tensor:
    """The sum of the tokens' weights."""
    if "weights" in batch:
        return batch["weights"].sum()
    return torch.tensor(float(batch["targets"].numel()), device=batch["targets"].device)


def class_losses(logits: Tensor, batch: Batch) -> Tensor:
    """The sum over samples of weight times cross-entropy; logits[S, C] are the same on every tensor-parallel rank."""
    losses = F.cross_entropy(logits.float(), batch["labels"], reduction="none")
    return (losses * batch["label_weights"]).sum()
