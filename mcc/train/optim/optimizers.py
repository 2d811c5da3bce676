"""Building an optimizer over named tensors, and reaching what it remembers of them.

The tensors may be whole parameters or the rows of them that this rank owns: an update is elementwise, so it is the
same either way.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mcc.train.optim.config import OptimConfig

SLOTS = {"adam": ("exp_avg", "exp_avg_sq"), "sgd": ("momentum_buffer",)}


def slots(config: OptimConfig) -> tuple[str, ...]:
    """What the optimizer remembers of every parameter, by name."""
    return () if config.optimizer == "sgd" and not config.sgd_momentum else SLOTS[config.optimizer]


def groups(parameters: Mapping[str, Tensor], weight_decay: float) -> list[dict[str, object]]:
    """Parameter groups: decay on matrices, none on vectors, which are the biases and the norms' weights."""
    matrices = [p for p in parameters.values() if p.dim() >= 2]
    vectors = [p for p in parameters.values() if p.dim() < 2]
    found = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in found if group["params"]]


def build(parameters: Mapping[str, Tensor], config: OptimConfig) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101), or SGD with momentum, whose decay is added to the gradient.

    AdamW is NVIDIA apex's FusedAdam on GPUs where that is installed. Else torch's own: fused into one pass over each
    tensor on CPU and CUDA, and over lists of tensors (foreach) on other devices.
    """
    chosen = groups(parameters, config.weight_decay)
    if not chosen:  # a rank that owns no rows of anything
        chosen = [{"params": [torch.zeros(0, requires_grad=True)]}]
    devices = {p.device.type for p in parameters.values()}
    if config.optimizer == "sgd":
        # Fused on the CPU it rounds the last elements of a tensor otherwise than the rest: rows would not equal wholes.
        kernels = {"fused": True} if devices == {"cuda"} else {"foreach": True}
        return torch.optim.SGD(chosen, lr=config.lr, momentum=config.sgd_momentum, **kernels)
    kernels = {"fused": True} if devices <= {"cpu", "cuda"} else {"foreach": True}
    betas = (config.adam_beta1, config.adam_beta2)
    if devices == {"cuda"}:
        try:
            from apex.optimizers import FusedAdam
        except ImportError:
            pass
        else:
            apex: torch.optim.Optimizer = FusedAdam(chosen, lr=config.lr, betas=betas, eps=config.adam_eps)
            return apex
    return torch.optim.AdamW(chosen, lr=config.lr, betas=betas, eps=config.adam_eps, **kernels)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Use `rate` in the next step."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def moments(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor], config: OptimConfig
) -> dict[str, dict[str, Tensor]]:
    """What the optimizer remembers, by slot and parameter name; zeros before the first step."""
    found: dict[str, dict[str, Tensor]] = {slot: {} for slot in slots(config)}
    for name, parameter in parameters.items():
        state = optimizer.state[parameter]
        for slot in found:
            if state.get(slot) is None:
                state[slot] = torch.zeros_like(parameter, requires_grad=False)
                if config.optimizer == "adam" and "step" not in state:
                    # Adam takes a state that is not empty for a whole one.
                    state["step"] = _count(optimizer, parameter, 0)
            found[slot][name] = state[slot]
    return found


def _count(optimizer: torch.optim.Optimizer, parameter: Tensor, updates: int) -> Tensor:
    """Adam's count of a parameter's updates, where it keeps it."""
    return torch.tensor(float(updates), device=parameter.device if optimizer.defaults.get("fused") else "cpu")


def set_updates(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor], config: OptimConfig, updates: int
) -> None:
    """Tell Adam's bias correction how many updates are behind the moments."""
    if config.optimizer != "adam":
        return
    moments(optimizer, parameters, config)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter]["step"] = _count(optimizer, parameter, updates)
        if "step" in group or group.get("bias_correction") is not None:  # apex counts by group
            group["step"] = updates
