"""Fused kernels for `quantize`: the same bits as its plain torch formulation, several times as fast. For low rank,
orthonormal rows.

CPUs: programs that numba compiles (`cpu`, `compiled`, `loops`, `thin`). GPUs: Triton's (`gpu`), for `quantize` alone.
Where numba or Triton is not installed or does not know this Python, and for small tensors, plain torch computes.
"""

from __future__ import annotations

from functools import lru_cache
from types import ModuleType

import torch
from torch import Tensor

from mcc.train.compress.kernels.layout import Layout

# Below so many values loading a compiler costs more than it saves.
LEAST = 1 << 14
_LEAST_THIN = 1 << 12


@lru_cache
def available(device: str) -> ModuleType | None:
    """The kernels for devices of a type; None where there are none."""
    try:
        if device == "cpu":
            from mcc.train.compress.kernels import cpu

            return cpu
        if device == "cuda":
            from mcc.train.compress.kernels import gpu

            return gpu
    except ImportError:
        pass
    return None


def encode(x: Tensor, layout: Layout) -> tuple[Tensor, Tensor] | None:
    """x as scales[groups] of bfloat16 and packed levels; None where no kernel does it."""
    kernels = available(x.device.type) if layout.count >= LEAST else None
    return kernels.encode(x, layout) if kernels else None


def decode(
    scale: Tensor, packed: Tensor, layout: Layout, dtype: torch.dtype, total: Tensor | None = None
) -> Tensor | None:
    """The values[count], of `dtype`; None where no kernel does it.

    Args:
        scale: as `encode` gave it. packed: too.
        layout: of both.
        dtype: of a value.
        total: fp32, contiguous; the values, rounded to `dtype`, are added to it, and it is returned.
    """
    kernels = available(packed.device.type) if layout.count >= LEAST else None
    return kernels.decode(scale, packed, layout, dtype, total) if kernels else None


def orthonormal(p_rn: Tensor) -> Tensor | None:
    """Orthonormal rows that span those of p[..., r, n], r at most n; None where no kernel does it, or can."""
    if p_rn.device.type != "cpu" or p_rn.dtype != torch.float32 or p_rn.numel() < _LEAST_THIN:
        return None
    kernels = available("cpu")
    return kernels.orthonormal(p_rn) if kernels else None
