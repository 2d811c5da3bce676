"""Rotary positions (Su et al., arXiv 2104.09864), with Llama 3's stretching of the long wavelengths.

    B batch   T tokens   n heads   hd channels of a head   R of them that turn, the first ones

Channel c turns with channel c + R/2: transformers' order, so that its weights are ours as they are. (Meta's own files
turn neighbouring channels with each other.)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mcc.models.base.config import ModelConfig

Rotation = tuple[Tensor, Tensor]


def frequencies(config: ModelConfig, device: torch.device) -> Tensor:
    """Radians a position [R/2], in float32.

    Wavelengths longer than original positions / low_freq_factor are multiplied by the scaling factor, those shorter
    than original positions / high_freq_factor stay, and between the two a line joins them (Llama 3.1, model card and
    arXiv 2407.21783, section 3.2).
    """
    powers = torch.arange(0, config.rotary_dim, 2, dtype=torch.int64, device=device).float() / config.rotary_dim
    found = 1.0 / config.rotary_base**powers
    factor = config.rope_scaling_factor
    if factor == 1:
        return found
    low, high = config.rope_low_freq_factor, config.rope_high_freq_factor
    turns = config.rope_original_positions / (2 * math.pi / found)  # within the original context
    share = (turns - low) / (high - low)
    between = (1 - share) * found / factor + share * found
    stretched = torch.where(turns < low, found / factor, found)
    return torch.where((turns >= low) & (turns <= high), between, stretched)


def rotation(config: ModelConfig, positions: Tensor, dtype: torch.dtype) -> Rotation:
    """(cosines, sines) [T, R] or [B, T, R] of the angles at global positions [T] or [B, T], computed in float32."""
    angles = positions.float()[..., None] * frequencies(config, positions.device)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, by: Rotation) -> Tensor:
    """x[B, T, ..., hd] turned by the angles of its positions."""
    cos, sin = (part.view(*part.shape[:-1], *[1] * (x.dim() - 3), part.shape[-1]) for part in by)
    turning, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
    low, high = turning.chunk(2, dim=-1)
    turned = turning * cos + torch.cat([-high, low], dim=-1) * sin
    return torch.cat([turned, rest], dim=-1) if rest.shape[-1] else turned
