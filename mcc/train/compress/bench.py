"""How fast codecs are on this machine, beside a plain copy of the same tensor."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch

from mcc.core.events import SILENT, Reporter, track
from mcc.train.compress.codec import Context, TensorSpec
from mcc.train.compress.spec import parse

DEFAULT_CODECS = ("none", "quantize:bits=8", "quantize:bits=4", "quantize:bits=6", "powersgd:rank=8")
# Rows of a micro-batch x hidden size: the quickstart's, and Optimus-CC's GPT-2.5B (its figure 14).
DEFAULT_SHAPES = ((512, 128), (1024, 1920))


@dataclass(frozen=True, kw_only=True)
class CodecSpeed:
    """One codec on one shape. Rates are bytes of the fp32 tensor a second, on one thread.

    Args:
        codec: as in `--compress`, without the site.
        shape: rows and columns.
        ratio: fp32 bytes over payload bytes.
        encode_gb_s, decode_gb_s: rates of coding and decoding.
        copy_gb_s: rate of `Tensor.copy_` on the same tensor in the same run.
    """

    codec: str
    shape: tuple[int, ...]
    ratio: float
    encode_gb_s: float
    decode_gb_s: float
    copy_gb_s: float


def measure(
    codecs: Sequence[str] = DEFAULT_CODECS,
    shapes: Sequence[tuple[int, ...]] = DEFAULT_SHAPES,
    repeats: int = 30,
    reporter: Reporter = SILENT,
) -> list[CodecSpeed]:
    """Time every codec on every shape; the median of `repeats`.

    Raises:
        UsageError: a codec or an option is unknown.
    """
    made = [(text, parse(f"pp.forward={text}")) for text in codecs]
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        cases = [(text, spec, shape) for shape in shapes for text, spec in made]
        found = []
        for text, spec, shape in track(cases, reporter, "codecs", total=len(cases)):
            x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
            codec = spec.make(TensorSpec(shape, x.dtype), "bench")
            payload = codec.encode(x, Context())
            there = torch.empty_like(x)
            found.append(
                CodecSpeed(
                    codec=text,
                    shape=shape,
                    ratio=x.nbytes / codec.payload_bytes,
                    encode_gb_s=_rate(lambda c=codec, x=x: c.encode(x, Context()), x.nbytes, repeats),  # type: ignore[misc]
                    decode_gb_s=_rate(lambda c=codec, p=payload: c.decode(p, Context()), x.nbytes, repeats),  # type: ignore[misc]
                    copy_gb_s=_rate(lambda a=there, x=x: a.copy_(x), x.nbytes, repeats),  # type: ignore[misc]
                )
            )
        return found
    finally:
        torch.set_num_threads(before)


def _rate(work: Callable[[], object], nbytes: int, repeats: int) -> float:
    times = []
    for i in range(repeats + 3):
        start = time.perf_counter()
        work()
        if i >= 3:  # the first are slower: memory is fetched, caches are cold
            times.append(time.perf_counter() - start)
    return nbytes / median(times) / 1e9
