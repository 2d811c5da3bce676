"""Both ends of a stream for the tests of codecs."""

from __future__ import annotations

import torch
from torch import Tensor

from mcc.train.compress.codec import Codec, Context, TensorSpec, pack, unpack
from mcc.train.compress.spec import parse


def make(text: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float32, key: str = "stream") -> Codec:
    """One end; `text` is a value of `--compress`, or one without its site."""
    spec = parse(text if "=" in text.partition(":")[0] else f"pp.forward={text}")
    return spec.make(TensorSpec(shape, dtype), key)


def through(text: str, x: Tensor, context: Context | None = None) -> Tensor:
    """What a fresh receiver sees of x that a fresh sender sent."""
    context = context or Context()
    sender, receiver = (make(text, tuple(x.shape), x.dtype) for _ in range(2))
    return receiver.decode(unpack(pack(sender.encode(x, context)), receiver.payload(context)), context)


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal values, the same at every call."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
