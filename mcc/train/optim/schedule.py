"""The learning rate of a step, a function of how far the run is and of nothing else.

W warm-up, D the decay's end, A the decay at the end of WSD; x what was consumed before the step, in steps or samples.

Up to W the rate grows linearly to `lr`; past D it is `min_lr`. In between, with r = (x - W) / (D - W),

    constant              lr
    linear                min_lr + (lr - min_lr) (1 - r)
    cosine                min_lr + (lr - min_lr) (1 + cos(pi r)) / 2
    inverse-square-root   max(min_lr, lr sqrt(W / x))
    WSD                   lr until D - A; then, with r = (x - (D - A)) / A, min_lr + (lr - min_lr) times
                          linear 1 - r, cosine (1 + cos(pi r)) / 2, exponential 2^(1-r) - 1, minus_sqrt 1 - sqrt(r)

as in Megatron-LM. WSD: Hu et al. 2024 (arXiv 2404.06395). In the warm-up a step counts itself, so that the first one
is not lost to a rate of 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from mcc.core.errors import UsageError
from mcc.data.training.batch_size import BatchSizes, Progress
from mcc.train.optim.config import OptimConfig

# From the share of a decay that is done to the share of the rate that is left.
LEFT: dict[str, Callable[[float], float]] = {
    "linear": lambda r: 1 - r,
    "cosine": lambda r: 0.5 * (1 + math.cos(math.pi * r)),
    "exponential": lambda r: 2 * 0.5**r - 1,
    "minus_sqrt": lambda r: 1 - math.sqrt(r),
}


class LearningRate:
    """The learning rate of every step of a run.

    Args:
        config: the optimizer's settings.
        sizes: the batch of every step.
        train_iters: steps of the run: where the decay ends unless the settings say otherwise.

    Raises:
        UsageError: the phases do not fit into each other.

    >>> rate = LearningRate(OptimConfig(lr=1.0, lr_warmup_iters=10), BatchSizes(4), train_iters=100)
    >>> rate(4), rate(9), rate(55), rate(100)
    (0.5, 1.0, 0.5, 0.0)
    """

    def __init__(self, config: OptimConfig, sizes: BatchSizes, train_iters: int) -> None:
        self.config, self.sizes = config, sizes
        unit = "samples" if config.in_samples else "iters"
        given = config.lr_decay_samples if config.in_samples else config.lr_decay_iters
        self.end: float = given or (sizes.at(train_iters).samples if config.in_samples else train_iters)
        self.warmup: float = config.lr_warmup_samples or config.lr_warmup_iters
        if config.lr_warmup_fraction is not None:
            self.warmup = config.lr_warmup_fraction * self.end
        if given and self.warmup >= given:
            raise UsageError(f"lr_warmup_{unit} = {self.warmup:g} is not less than lr_decay_{unit} = {given}")
        self.anneal: float = config.lr_wsd_decay_samples or config.lr_wsd_decay_iters or 0
        if self.warmup + self.anneal > self.end and self.anneal:
            raise UsageError(
                f"lr_warmup_{unit} = {self.warmup:g} and lr_wsd_decay_{unit} = {self.anneal:g} together are more than "
                f"the {self.end:g} {unit} of the schedule"
            )

    def __call__(self, step: int) -> float:
        """The rate of step `step`, counted from 0."""
        return self.at(self.sizes.at(step))

    def at(self, progress: Progress) -> float:
        """The rate of the step at `progress`."""
        config = self.config
        x, own = (progress.samples, progress.batch) if config.in_samples else (progress.step, 1)
        if x < self.warmup:
            return config.lr_warmup_init + (config.lr - config.lr_warmup_init) * min(1.0, (x + own) / self.warmup)
        if config.lr_decay_style == "constant":
            return config.lr
        if x > self.end:
            return config.min_lr
        if config.lr_decay_style == "inverse-square-root":
            return max(config.min_lr, config.lr * math.sqrt(max(1.0, self.warmup) / max(1, x)))
        if config.lr_decay_style == "WSD":
            start, style = self.end - self.anneal, config.lr_wsd_decay_style
        else:
            start, style = self.warmup, config.lr_decay_style
        done = max(0.0, (x - start) / (self.end - start)) if self.end > start else 1.0
        return config.min_lr + (config.lr - config.min_lr) * LEFT[style](done)
