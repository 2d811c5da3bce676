"""Settings of the optimizer, its learning rate and its loss scale. Megatron-LM's names. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mcc.core.config import option
from mcc.core.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The optimizer and its learning-rate schedule.

    Raises:
        UsageError: a value is out of its range, or two of them exclude each other.
    """

    optimizer: Literal["adam", "sgd"] = option("adam", "adam: AdamW; sgd: with momentum")
    lr: float = option(1e-3, "peak learning rate")
    min_lr: float = option(0.0, "learning rate at the end of the decay")
    lr_decay_style: Literal["cosine", "linear", "constant", "inverse-square-root", "WSD"] = option(
        "cosine", "shape of the decay; WSD: warm-up, stable, decay"
    )
    lr_decay_iters: int | None = option(None, "steps until the decay has ended [--train-iters]")
    lr_decay_samples: int | None = option(None, "the same in samples [all of the run's]")
    lr_warmup_iters: int = option(0, "steps over which the learning rate grows")
    lr_warmup_samples: int = option(0, "the same in samples")
    lr_warmup_fraction: float | None = option(None, "the same as a share of the decay's length")
    lr_warmup_init: float = option(0.0, "learning rate that the warm-up starts from")
    lr_wsd_decay_style: Literal["exponential", "linear", "cosine", "minus_sqrt"] = option(
        "exponential", "shape of the decay at the end of WSD"
    )
    lr_wsd_decay_iters: int | None = option(None, "steps of the decay at the end of WSD")
    lr_wsd_decay_samples: int | None = option(None, "the same in samples")
    weight_decay: float = option(0.01, "decoupled weight decay; none on biases and norms")
    adam_beta1: float = option(0.9, "decay of the first moment")
    adam_beta2: float = option(0.95, "decay of the second moment")
    adam_eps: float = option(1e-8, "added to the root of the second moment")
    sgd_momentum: float = option(0.9, "share of the last step's direction that SGD keeps")
    clip_grad: float = option(1.0, "largest global gradient norm; 0 for no clipping")
    loss_scale: float | None = option(None, "with --precision fp16, a fixed loss scale [it adapts]")
    initial_loss_scale: float = option(2.0**32, "first loss scale of fp16")
    min_loss_scale: float = option(1.0, "smallest loss scale of fp16")
    loss_scale_window: int = option(1000, "steps without overflow after which the loss scale doubles")
    hysteresis: int = option(2, "overflows before the loss scale is halved")

    def __post_init__(self) -> None:
        if self.lr <= 0 or self.min_lr < 0 or self.min_lr > self.lr:
            raise UsageError(f"lr = {self.lr}, min_lr = {self.min_lr}: 0 <= min_lr <= lr and lr > 0 must hold")
        if not 0 <= self.lr_warmup_init <= self.lr:
            raise UsageError(f"lr_warmup_init = {self.lr_warmup_init} is not between 0 and lr = {self.lr}")
        for name in ("lr_warmup_iters", "lr_warmup_samples", "clip_grad", "weight_decay"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} = {getattr(self, name)} must not be negative")
        for name in ("lr_decay_iters", "lr_decay_samples", "lr_wsd_decay_iters", "lr_wsd_decay_samples"):
            if (getattr(self, name) or 1) < 1:
                raise UsageError(f"{name} = {getattr(self, name)} must be at least 1")
        for name in ("adam_beta1", "adam_beta2", "sgd_momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{name} = {getattr(self, name)} must be at least 0 and below 1")
        if self.lr_warmup_fraction is not None and not 0 <= self.lr_warmup_fraction <= 1:
            raise UsageError(f"lr_warmup_fraction = {self.lr_warmup_fraction} is not between 0 and 1")
        self._check_schedule()
        if (self.loss_scale or 1) <= 0 or not 0 < self.min_loss_scale <= self.initial_loss_scale:
            raise UsageError(
                f"loss_scale = {self.loss_scale}, min_loss_scale = {self.min_loss_scale}, initial_loss_scale = "
                f"{self.initial_loss_scale}: all are positive, and the smallest is at most the first"
            )
        if self.loss_scale_window < 1 or self.hysteresis < 1:
            raise UsageError(
                f"loss_scale_window = {self.loss_scale_window} and hysteresis = {self.hysteresis} must be at least 1"
            )

    @property
    def in_samples(self) -> bool:
        """Whether the schedule is told in samples rather than in steps."""
        return bool(self.lr_decay_samples or self.lr_warmup_samples or self.lr_wsd_decay_samples)

    def _check_schedule(self) -> None:
        steps = [n for n in ("lr_decay_iters", "lr_warmup_iters", "lr_wsd_decay_iters") if getattr(self, n)]
        samples = [n.replace("iters", "samples") for n in ("lr_decay_iters", "lr_warmup_iters", "lr_wsd_decay_iters")]
        samples = [n for n in samples if getattr(self, n)]
        if steps and samples:
            raise UsageError(f"{steps[0]} counts steps and {samples[0]} samples", "give all of them in one unit")
        if self.lr_warmup_fraction is not None and (self.lr_warmup_iters or self.lr_warmup_samples):
            raise UsageError("lr_warmup_fraction excludes lr_warmup_iters and lr_warmup_samples", "give one of them")
        wsd = self.lr_wsd_decay_iters or self.lr_wsd_decay_samples
        if self.lr_decay_style == "WSD" and not wsd:
            raise UsageError("lr_decay_style WSD needs the length of its decay", "--lr-wsd-decay-iters N")
        if self.lr_decay_style != "WSD" and wsd:
            raise UsageError(f"lr_decay_style {self.lr_decay_style} has no use for lr_wsd_decay_iters = {wsd}")
