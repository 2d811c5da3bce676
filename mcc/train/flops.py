"""How many floating-point operations a token takes, and how many a device could do: together, the utilisation (MFU)."""

from __future__ import annotations

import math
import re

import torch

from mcc.models.base.config import ModelConfig
from mcc.models.base.family import families, global_shape

# Dense peaks in TFLOP/s, from NVIDIA's data sheets. A name is words of the device's; the first that fits counts.
# float32 is without tensor cores, as torch computes it by default.
_16_BIT = (torch.bfloat16, torch.float16)
PEAKS: tuple[tuple[str, float, float], ...] = (
    # name, bfloat16 and float16, float32
    ("GB200", 2500.0, 80.0),
    ("B200", 2250.0, 75.0),
    ("GH200", 989.4, 66.9),
    ("H200", 989.4, 66.9),
    ("H100 NVL", 835.5, 60.0),
    ("H100 PCIe", 756.5, 51.2),
    ("H100", 989.4, 66.9),
    ("H800", 989.4, 66.9),
    ("A100", 312.0, 19.5),
    ("A800", 312.0, 19.5),
    ("L40S", 362.05, 91.6),
    ("L4", 121.0, 30.3),
    ("RTX 4090", 165.2, 82.6),
    ("V100-SXM2", 125.0, 15.7),
    ("V100", 112.0, 14.0),
    ("T4", 65.0, 8.1),
)


def peak_flops(device: str, dtype: torch.dtype) -> float | None:
    """Floating-point operations a second that a device called `device` can do; None where it is not known.

    >>> peak_flops("NVIDIA H100 80GB HBM3", torch.bfloat16)
    989400000000000.0
    >>> peak_flops("cpu", torch.float32) is None
    True
    """
    for name, half, single in PEAKS:
        if re.search(rf"\b{name}\b", device):
            return 1e12 * (half if dtype in _16_BIT else single)
    return None


def flops_per_token(config: ModelConfig) -> float:
    """Floating-point operations of one token's forward and backward pass, recomputation not counted.

    6 for each weight that a token is multiplied by, the output layer's among them, and 12 x layers x width x tokens for
    attention's two products with all positions, as PaLM counts them (arXiv 2204.02311, appendix B).

    >>> round(flops_per_token(ModelConfig(num_layers=12, hidden_size=768, num_attention_heads=12, seq_length=1024,
    ...                                   vocab_size=50257)) / 1e6)
    854
    """
    weights, output = 0, False
    for name, row, _ in families.get(config.family)().table(config):
        if len(row.shape) == 2 and not name.startswith("embedding."):
            weights += math.prod(global_shape(row, config))
            output = output or row.shape[0] == "V"
    if not output:  # tied to the embedding
        weights += config.vocab_size * config.hidden_size
    width = config.num_attention_heads * config.head_dim
    return 6.0 * weights + 12.0 * config.num_layers * width * config.seq_length
