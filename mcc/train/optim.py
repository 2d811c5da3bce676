"""The optimizer, its groups and its learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mcc.train.config import OptimConfig

SLOTS = ("exp_avg", "exp_avg_sq")


def build(parameters: Mapping[str, nn.Parameter], config: OptimConfig) -> torch.optim.Optimizer:
    """AdamW with decoupled decay on matrices alone: NVIDIA apex's fused one on its GPUs, torch's foreach otherwise."""
    decayed = [p for p in parameters.values() if p.dim() >= 2]
    plain = [p for p in parameters.values() if p.dim() < 2]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    betas = (config.adam_beta1, config.adam_beta2)
    groups = [group for group in groups if group["params"]]
    if all(p.is_cuda for p in parameters.values()):
        try:
            from apex.optimizers import FusedAdam
        except ImportError:
            pass
        else:
            fused: torch.optim.Optimizer = FusedAdam(groups, lr=config.lr, betas=betas, eps=config.adam_eps)
            return fused
    return torch.optim.AdamW(groups, lr=config.lr, betas=betas, eps=config.adam_eps, foreach=True)


def learning_rate(config: OptimConfig, step: int, train_iters: int) -> float:
    """The rate of step `step`, counted from 0: linear warm-up, then the decay, ending at `min_lr`.

    >>> learning_rate(OptimConfig(lr=1.0, lr_warmup_iters=10), 4, 100)
    0.5
    """
    if step < config.lr_warmup_iters:
        return config.lr * (step + 1) / config.lr_warmup_iters
    if config.lr_decay_style == "constant":
        return config.lr
    done = (step - config.lr_warmup_iters) / max(1, train_iters - 1 - config.lr_warmup_iters)
    done = min(1.0, done)
    left = 1 - done if config.lr_decay_style == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return config.min_lr + (config.lr - config.min_lr) * left


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Use `rate` in the next step."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def moments(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, dict[str, Tensor]]:
    """Adam's moments by slot and parameter name; zeros before the first step."""
    found: dict[str, dict[str, Tensor]] = {slot: {} for slot in SLOTS}
    for name, parameter in parameters.items():
        state = optimizer.state[parameter]
        for slot in SLOTS:
            if slot not in state:
                state[slot] = torch.zeros_like(parameter)
            found[slot][name] = state[slot]
    return found


def set_step(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], step: int) -> None:
    """Tell Adam's bias correction how many steps are behind the moments."""
    for parameter in parameters.values():
        optimizer.state[parameter]["step"] = torch.tensor(float(step))
    for group in optimizer.param_groups:
        if "step" in group:  # apex counts by group
            group["step"] = step
