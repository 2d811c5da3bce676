"""Norms and linear layers on this rank's tensor-parallel shards.

    B batch   T tokens   D hidden size   P tensor-parallel ranks

Weights are kept in float32 by training and used in the dtype of what they meet.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcc.models.base.axes import Axes
from mcc.models.base.blueprint import Blueprint
from mcc.models.base.config import ModelConfig

if TYPE_CHECKING:
    from mcc.models.base.bottleneck import Bottleneck


class Weights(nn.Module):
    """A weight and perhaps a bias, local shapes, uninitialised."""

    def __init__(self, *shape: int, bias: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(*shape))
        self.bias = nn.Parameter(torch.empty(bias)) if bias else None

    def as_(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """(weight, bias) in `dtype`."""
        return self.weight.to(dtype), None if self.bias is None else self.bias.to(dtype)


class Norm(Weights):
    """Layer norm or root-mean-square norm over D, computed in float32 whatever the dtype."""

    def __init__(self, config: ModelConfig, blueprint: Blueprint) -> None:
        self.rms = blueprint.norm == "rms"
        super().__init__(config.hidden_size, bias=0 if self.rms else config.hidden_size)
        self.epsilon = config.layernorm_epsilon

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.as_(x.dtype)
        fused = _apex() if x.is_cuda and not torch.compiler.is_compiling() else None  # inductor fuses it itself
        if fused is not None:
            return fused(self.rms, x, weight, bias, self.epsilon)
        if self.rms:
            return F.rms_norm(x, weight.shape, weight, self.epsilon)
        return F.layer_norm(x, weight.shape, weight, bias, self.epsilon)


@cache
def _apex() -> Callable[..., Tensor] | None:
    """NVIDIA apex's fused norms, where they are installed."""
    try:
        from apex.normalization.fused_layer_norm import fused_layer_norm_affine, fused_rms_norm_affine
    except ImportError:
        return None

    def norm(rms: bool, x: Tensor, weight: Tensor, bias: Tensor | None, epsilon: float) -> Tensor:
        if rms:
            out: Tensor = fused_rms_norm_affine(x, weight, tuple(weight.shape), epsilon)
        else:
            out = fused_layer_norm_affine(x, weight, bias, tuple(weight.shape), epsilon)
        return out

    return norm


class ColumnParallel(Weights):
    """A linear layer whose outputs are sharded: x[B, T, in] replicated -> [B, T, out/P]."""

    def __init__(self, inputs: int, outputs: int, bias: bool, axes: Axes, key: str) -> None:
        super().__init__(outputs // axes.size, inputs, bias=outputs // axes.size if bias else 0)
        self.axes, self.key = axes, key

    def forward(self, x: Tensor) -> Tensor:
        return self.sharded(self.axes.enter(x, self.key))

    def sharded(self, x: Tensor) -> Tensor:
        """`forward` for an x that has entered the sharded region already."""
        return F.linear(x, *self.as_(x.dtype))


class RowParallel(Weights):
    """A linear layer whose inputs are sharded: x[B, T, in/P] -> [B, T, out] replicated; the bias is added once.

    Attributes:
        codec: trained with the model, what the ranks' sum goes through; see `mcc.models.base.bottleneck`.
    """

    codec: Bottleneck | None

    def __init__(self, inputs: int, outputs: int, bias: bool, axes: Axes, key: str) -> None:
        super().__init__(outputs, inputs // axes.size, bias=outputs if bias else 0)
        self.axes, self.key = axes, key
        self.codec = None

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.as_(x.dtype)
        if self.codec is not None:
            out = self.axes.leave_through(F.linear(x, weight), self.codec, self.key)
        elif self.axes.size == 1:
            return self.axes.leave(F.linear(x, weight, bias), self.key)
        else:
            out = self.axes.leave(F.linear(x, weight), self.key)
        return out if bias is None else out + bias


class Linear(Weights):
    """A linear layer that every rank holds whole."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(outputs, inputs, bias=outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, *self.as_(x.dtype))


def activation(name: str) -> Callable[[Tensor], Any]:
    """The elementwise function called `name` in a blueprint; SwiGLU's is that of its gate."""
    return {
        "gelu-tanh": lambda x: F.gelu(x, approximate="tanh"),
        "gelu": F.gelu,
        "relu": F.relu,
        "swiglu": F.silu,
    }[name]
