"""The loss scale of fp16: as large as the gradients' range allows (Micikevicius et al. 2018, arXiv 1710.03740).

It follows Megatron-LM's rule. An overflow costs a step: its update is left out. After `hysteresis` overflows the scale
is halved at each further one; `loss_scale_window` steps in a row without any double it, and forgive past overflows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mcc.core.errors import MccError
from mcc.train.optim.config import OptimConfig

GROWTH, BACKOFF = 2.0, 0.5


@dataclass
class LossScale:
    """A loss scale and what it remembers. With `config.loss_scale` it never changes.

    Attributes:
        scale: what the loss is multiplied by, and gradients are divided by.
        good: steps without overflow since the last change.
        patience: overflows left before the scale is halved.
    """

    config: OptimConfig
    scale: float
    good: int = 0
    patience: int = 0

    @staticmethod
    def start(config: OptimConfig) -> LossScale:
        """The scale of a fresh run."""
        return LossScale(config, config.loss_scale or config.initial_loss_scale, 0, config.hysteresis)

    def update(self, overflow: bool) -> None:
        """Take note of a step; `overflow`, the same on every rank, says that its update was left out.

        Raises:
            MccError: gradients overflow though the scale can't be lowered.
        """
        if self.config.loss_scale is not None:
            return
        if not overflow:
            self.good += 1
            if self.good == self.config.loss_scale_window:
                self.good, self.patience = 0, self.config.hysteresis
                self.scale *= GROWTH
            return
        self.good = 0
        self.patience -= 1
        if self.patience > 0:
            return
        if self.scale <= self.config.min_loss_scale:
            raise MccError(
                f"gradients are not finite even at the smallest loss scale, {self.scale:g}",
                "lower --lr or --clip-grad, or train with --precision bf16",
            )
        self.scale = max(self.scale * BACKOFF, self.config.min_loss_scale)

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {"scale": self.scale, "good": self.good, "patience": self.patience}

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`; a fixed scale stays."""
        if self.config.loss_scale is None:
            self.scale, self.good, self.patience = float(state["scale"]), int(state["good"]), int(state["patience"])
