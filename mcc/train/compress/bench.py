"""How fast codecs are on a device, beside a plain copy of the same tensor and, for low rank, beside their matmuls."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from mcc.core.errors import UsageError
from mcc.core.events import SILENT, Reporter, track
from mcc.core.files import atomic_path
from mcc.train.compress.codec import Codec, Context, TensorSpec
from mcc.train.compress.codecs.powersgd import PowerSGD
from mcc.train.compress.codecs.quantize import Quantize
from mcc.train.compress.spec import parse

DEFAULT_CODECS = ("none", "quantize:bits=8", "quantize:bits=4", "quantize:bits=6", "powersgd:rank=8")
# Rows of a micro-batch x hidden size: the quickstart's, and Optimus-CC's GPT-2.5B.
DEFAULT_SHAPES = ((512, 128), (1024, 1920))
# Optimus-CC, arXiv 2301.09830, figure 14: sequence length x hidden size of its models, and the ranks.
FIG14_CODECS = tuple(f"powersgd:rank={rank}" for rank in (8, 16, 24, 32, 40))
FIG14_SHAPES = ((1024, 1920), (1024, 3072), (2048, 12288))
_COPIES = 8  # of a tensor that stand in memory at once, at most: plain formulations keep some
_WARM_UP, _WARM_UP_S = 3, 0.05  # the first are slower: memory is fetched, kernels are compiled, clocks rise
_FORMS = (".png", ".svg", ".pdf")


@dataclass(frozen=True, kw_only=True)
class CodecSpeed:
    """One codec on one shape. Rates are bytes of the fp32 tensor a second.

    Args:
        codec: as in `--compress`, without the site.
        shape: rows and columns.
        ratio: fp32 bytes over payload bytes.
        encode_gb_s, decode_gb_s: rates of coding and decoding.
        copy_gb_s: rate of `Tensor.copy_` on the same tensor in the same run, its bytes counted once.
        encode_of_copy, decode_of_copy: shares of that.
        plain_encode_gb_s, plain_decode_gb_s: rates of the same in plain torch operations, for codecs with kernels.
        encode_of_matmul, decode_of_matmul: for low rank, how many times as long as its matmuls alone.
    """

    codec: str
    shape: tuple[int, ...]
    ratio: float
    encode_gb_s: float
    decode_gb_s: float
    copy_gb_s: float
    encode_of_copy: float
    decode_of_copy: float
    plain_encode_gb_s: float | None = None
    plain_decode_gb_s: float | None = None
    encode_of_matmul: float | None = None
    decode_of_matmul: float | None = None


def measure(
    codecs: Sequence[str] = DEFAULT_CODECS,
    shapes: Sequence[tuple[int, ...]] = DEFAULT_SHAPES,
    repeats: int = 30,
    reporter: Reporter = SILENT,
    *,
    device: str = "cpu",
    threads: int = 1,
) -> list[CodecSpeed]:
    """Time every codec on every shape; the median of `repeats`.

    Raises:
        UsageError: a codec or an option is unknown, there is no such device, or a tensor does not fit in memory.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch finds no GPU here", "--device cpu")
    made = [(text, parse(f"pp.forward={text}")) for text in codecs]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for shape in shapes:
        if 4 * math.prod(shape) * _COPIES > memory:
            raise UsageError(f"{'x'.join(map(str, shape))}: {_COPIES} such tensors do not fit in memory")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        cases = [(text, spec, shape) for shape in shapes for text, spec in made]
        found = []
        for text, spec, shape in track(cases, reporter, "codecs", total=len(cases)):
            x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
            found.append(_speed(text, spec.make(TensorSpec(shape, x.dtype), "bench"), x, repeats))
        return found
    finally:
        torch.set_num_threads(before)


def _speed(text: str, codec: Codec, x: Tensor, repeats: int) -> CodecSpeed:
    context, there = Context(), torch.empty_like(x)
    payload = codec.encode(x, context)

    def seconds(work: Callable[[], object]) -> float:
        return _seconds(repeats, x.is_cuda, work)[0]

    def of_matmuls(work: Callable[[], object], matmuls: Callable[[], object]) -> float:
        took, least = _seconds(repeats, x.is_cuda, work, matmuls)
        return took / least

    encode, decode = seconds(lambda: codec.encode(x, context)), seconds(lambda: codec.decode(payload, context))
    copy = seconds(lambda: there.copy_(x))
    plain: list[float | None] = [None, None]
    matmuls: list[float | None] = [None, None]
    if isinstance(codec, Quantize):
        quantize = codec
        for i, way in enumerate(
            (lambda: quantize.encode_plainly(x, context), lambda: quantize.decode_plainly(payload))
        ):
            plain[i] = x.nbytes / seconds(way) / 1e9
    if isinstance(codec, PowerSGD) and not codec.batch:
        matrix = x.reshape(codec.n, codec.m)
        p_rn, q_rm = (torch.randn(codec.low_rank, rows, device=x.device) for rows in matrix.shape)
        matmuls[0] = of_matmuls(lambda: codec.encode(x, context), lambda: (q_rm @ matrix.mT, p_rn @ matrix))
        matmuls[1] = of_matmuls(lambda: codec.decode(payload, context), lambda: p_rn.mT @ q_rm)
    return CodecSpeed(
        codec=text,
        shape=tuple(x.shape),
        ratio=x.nbytes / sum(part.nbytes for part in payload),
        encode_gb_s=x.nbytes / encode / 1e9,
        decode_gb_s=x.nbytes / decode / 1e9,
        copy_gb_s=x.nbytes / copy / 1e9,
        encode_of_copy=copy / encode,
        decode_of_copy=copy / decode,
        plain_encode_gb_s=plain[0],
        plain_decode_gb_s=plain[1],
        encode_of_matmul=matmuls[0],
        decode_of_matmul=matmuls[1],
    )


def _seconds(repeats: int, cuda: bool, *works: Callable[[], object]) -> list[float]:
    """The median time of each of `works`, taken by turns: a machine that is slow for a moment is so for all."""

    def once(work: Callable[[], object]) -> float:
        start = time.perf_counter()
        work()
        if cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - start

    begun, runs = time.perf_counter(), 0
    while runs < _WARM_UP or time.perf_counter() < begun + _WARM_UP_S:
        for work in works:
            once(work)
        runs += 1
    turns = [[once(work) for work in works] for _ in range(repeats)]
    return [median(found) for found in zip(*turns, strict=True)]


def check_plot(path: Path) -> None:
    """Refuse a picture that could not be drawn, before anything is measured.

    Raises:
        UsageError: its ending names no form.
    """
    if path.suffix.lower() not in _FORMS:
        raise UsageError(f"--plot {path} has none of the endings {', '.join(_FORMS)}", "e.g. --plot codecs.png")


def draw(found: Sequence[CodecSpeed], path: Path) -> None:
    """Rates of encoding and decoding, and of a copy, as bars; the path's ending names the form (png, svg, pdf)."""
    from matplotlib.figure import Figure

    shapes = list(dict.fromkeys(speed.shape for speed in found))
    figure = Figure(figsize=(8.0, 3.2 * len(shapes)), layout="constrained", facecolor="white")
    for row, axes in zip(shapes, figure.subplots(len(shapes), squeeze=False)[:, 0], strict=True):
        some = [speed for speed in found if speed.shape == row]
        for offset, name, colour in ((-0.2, "encode", "#0072b2"), (0.2, "decode", "#d55e00")):
            places = [i + offset for i in range(len(some))]
            axes.bar(places, [getattr(speed, f"{name}_gb_s") for speed in some], 0.38, label=name, color=colour)
        axes.axhline(median(speed.copy_gb_s for speed in some), color="#000000", linewidth=1, label="copy")
        axes.set_xticks(range(len(some)), [speed.codec for speed in some], fontsize="small", rotation=12)
        axes.set_yscale("log")
        axes.set_ylabel("GB/s of fp32")
        axes.set_title("x".join(map(str, row)))
        axes.legend(frameon=False, fontsize="small")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix.lower().removeprefix("."), dpi=144)
