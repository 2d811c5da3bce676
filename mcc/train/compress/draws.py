"""Random numbers that come out the same again: at both ends, after a restart, and on every rank that needs the same.

They are drawn anew from a stream's name and the time of a tensor, so no generator has a state to save.
"""

from __future__ import annotations

import hashlib
import random

import torch

from mcc.train.compress.codec import Context


def seed(key: str, context: Context, use: str = "") -> int:
    """A seed of 63 bits for the tensor of stream `key` at `context`."""
    text = f"{key}|{context.step}|{context.microbatch}|{context.training}|{use}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def numbers(key: str, context: Context) -> random.Random:
    """A source of few numbers, the same on every device and under every version of torch."""
    return random.Random(seed(key, context))


def generator(key: str, context: Context, device: torch.device, rank: int) -> torch.Generator:
    """A source of many numbers on `device`, for what only one end needs to know: others for each `Codec.rank`.

    With the same on all ranks their errors would not cancel in a sum, but add up.
    """
    return torch.Generator(device).manual_seed(seed(key, context, f"rank {rank}"))
