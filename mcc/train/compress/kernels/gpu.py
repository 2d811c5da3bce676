"""`quantize` on GPUs, in Triton: one pass where the values that share a scale fit in a block, one of levels otherwise.

    count values   G groups   b bits   PER values a byte   short: bfloat16, by its bits

Levels of 1, 2, 4 and 8 bits. Other widths, and groups that do not end with a byte, are left to plain torch. Roundings
are done by integers and divisions are exact, so that the bits are those of the CPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from mcc.train.compress.groups import HEADROOM
from mcc.train.compress.kernels.layout import Layout

_SHORT = torch.bfloat16
_WHOLE = 16384  # values of a group that a block holds at once
_SPAN = 4096  # values a block, where it need not hold a group
_LARGEST = 2**31 - _SPAN  # values that 32-bit offsets reach
_INFINITY = tl.constexpr(0x7F800000)
_QUIET_NAN = tl.constexpr(0x7FC00000)
_UP = tl.constexpr(HEADROOM)


@triton.jit
def _to_short(bits):  # type: ignore[no-untyped-def]
    """fp32 bits rounded to those that bfloat16 has, to nearest even."""
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & -65536
    return tl.where((bits & 0x7FFFFFFF) > _INFINITY, _QUIET_NAN, rounded)


@triton.jit
def _load(x, at, mask, SHORT: tl.constexpr):  # type: ignore[no-untyped-def]
    if SHORT:
        return (tl.load(x + at, mask=mask, other=0).to(tl.int32) << 16).to(tl.float32, bitcast=True)
    return tl.load(x + at, mask=mask, other=0.0)


@triton.jit
def _put(x, bits, at, mask, SHORT: tl.constexpr):  # type: ignore[no-untyped-def]
    if SHORT:
        tl.store(x + at, (bits >> 16).to(tl.int16), mask=mask)
    else:
        tl.store(x + at, bits.to(tl.float32, bitcast=True), mask=mask)


@triton.jit
def _levels(x, scale, HALF: tl.constexpr):  # type: ignore[no-untyped-def]
    """Levels of x under scales, both fp32."""
    inverse = tl.div_rn(scale * 0.0 + 1.0, scale) * HALF
    inverse = tl.where(inverse < float("inf"), inverse, 0.0)
    y = tl.floor(x * inverse) + HALF
    y = tl.where(y >= 0, y, 0.0)  # NaN, too
    return tl.where(y <= 2.0 * HALF - 1, y, 2.0 * HALF - 1).to(tl.int32)


@triton.jit
def _encode_rows(  # type: ignore[no-untyped-def]
    x, scale, packed, count, size,
    BITS: tl.constexpr, HALF: tl.constexpr, BYTES: tl.constexpr, SHORT: tl.constexpr,
):  # fmt: skip
    """A program a group of `size` values in a row: its scale, its levels, packed into at most BYTES."""
    per: tl.constexpr = 8 // BITS
    group = tl.program_id(0)
    byte, part = tl.arange(0, BYTES), tl.arange(0, per)
    within = byte[:, None] * per + part[None, :]
    at = group * size + within
    there = (within < size) & (at < count)
    values = _load(x, at, there, SHORT)
    top = tl.max(tl.max(values.to(tl.int32, bitcast=True) & 0x7FFFFFFF, axis=1), axis=0)
    top = _to_short((top.to(tl.float32, bitcast=True) * _UP).to(tl.int32, bitcast=True))
    tl.store(scale + group, (top >> 16).to(tl.int16))
    q = tl.where(there, _levels(values, top.to(tl.float32, bitcast=True), HALF), 0)
    into = group * (size // per) + byte
    filled = (byte * per < size) & (into * per < count)
    tl.store(packed + into, tl.sum(q << (part[None, :] * BITS), axis=1).to(tl.uint8), mask=filled)


@triton.jit
def _encode_levels(  # type: ignore[no-untyped-def]
    x, scale, packed, count, size,
    COLUMNS: tl.constexpr, BITS: tl.constexpr, HALF: tl.constexpr, BYTES: tl.constexpr, SHORT: tl.constexpr,
):  # fmt: skip
    """A program BYTES of packed levels, whose scales are there."""
    per: tl.constexpr = 8 // BITS
    byte, part = tl.program_id(0) * BYTES + tl.arange(0, BYTES), tl.arange(0, per)
    at = byte[:, None] * per + part[None, :]
    there = at < count
    group = at % size if COLUMNS else at // size
    q = _levels(_load(x, at, there, SHORT), _load(scale, group, there, True), HALF)
    packed_ = tl.sum(tl.where(there, q, 0) << (part[None, :] * BITS), axis=1)
    tl.store(packed + byte, packed_.to(tl.uint8), mask=byte * per < count)


@triton.jit
def _decode(  # type: ignore[no-untyped-def]
    scale, packed, out, count, size,
    COLUMNS: tl.constexpr, BITS: tl.constexpr, HALF: tl.constexpr, BYTES: tl.constexpr, SHORT: tl.constexpr,
    ADDS: tl.constexpr,
):  # fmt: skip
    """A program BYTES of packed levels: their values, rounded to bfloat16 if SHORT, put or added."""
    per: tl.constexpr = 8 // BITS
    byte, part = tl.program_id(0) * BYTES + tl.arange(0, BYTES), tl.arange(0, per)
    at = byte[:, None] * per + part[None, :]
    there = at < count
    group = at % size if COLUMNS else at // size
    q = tl.load(packed + byte, mask=byte * per < count, other=0).to(tl.int32)
    q = (q[:, None] >> (part[None, :] * BITS)) & ((1 << BITS) - 1)
    x = (q.to(tl.float32) + (0.5 - HALF)) * (_load(scale, group, there, True) * (1.0 / HALF))
    bits = x.to(tl.int32, bitcast=True)
    if SHORT:
        bits = _to_short(bits)
    if ADDS:
        total = tl.load(out + at, mask=there, other=0.0) + bits.to(tl.float32, bitcast=True)
        tl.store(out + at, total, mask=there)
    else:
        _put(out, bits, at, there, SHORT)


def encode(x: Tensor, layout: Layout) -> tuple[Tensor, Tensor] | None:
    """x[count values] as scales[G] and packed levels; None where plain torch has to."""
    if 8 % layout.bits or layout.count > _LARGEST:
        return None
    if x.dtype not in (torch.float32, _SHORT):
        x = x.float()
    x = x.contiguous()
    per, half, short = 8 // layout.bits, float(2 ** (layout.bits - 1)), x.dtype is _SHORT
    scale = torch.empty(layout.groups, dtype=_SHORT, device=x.device)
    packed = torch.empty(layout.packed, dtype=torch.uint8, device=x.device)
    flat = x.view(-1).view(torch.int16) if short else x.view(-1)
    if not layout.columns and layout.size <= _WHOLE and (layout.size % per == 0 or layout.groups == 1):
        nbytes = triton.next_power_of_2(-(-layout.size // per))
        _encode_rows[(layout.groups,)](
            flat, scale.view(torch.int16), packed, layout.count, layout.size, layout.bits, half, nbytes, short
        )  # fmt: skip
        return scale, packed
    if layout.columns or layout.count == layout.groups * layout.size:
        dim = 0 if layout.columns else 1
        matrix = x.view(-1, layout.size)
        top = torch.linalg.vector_norm(matrix, float("inf"), dim, dtype=torch.float32)
        scale.copy_(top * HEADROOM)
        _encode_levels[(-(-layout.packed // (_SPAN // per)),)](
            flat, scale.view(torch.int16), packed, layout.count, layout.size,
            layout.columns, layout.bits, half, _SPAN // per, short,
        )  # fmt: skip
        return scale, packed
    return None


def decode(scale: Tensor, packed: Tensor, layout: Layout, dtype: torch.dtype, total: Tensor | None) -> Tensor | None:
    """The values[count] of `dtype`, or `total` to which they were added; None where plain torch has to."""
    if 8 % layout.bits or layout.count > _LARGEST:
        return None
    if dtype not in (torch.float32, _SHORT):
        values = decode(scale, packed, layout, torch.float32, None)
        assert values is not None
        return values.to(dtype) if total is None else total.view(-1).add_(values.to(dtype))
    per, half, short = 8 // layout.bits, float(2 ** (layout.bits - 1)), dtype is _SHORT
    out = torch.empty(layout.count, dtype=dtype, device=packed.device) if total is None else total
    flat = out.view(-1).view(torch.int16) if short and total is None else out.view(-1)
    _decode[(-(-layout.packed // (_SPAN // per)),)](
        scale.contiguous().view(torch.int16), packed.contiguous(), flat, layout.count, layout.size,
        layout.columns, layout.bits, half, _SPAN // per, short, total is not None,
        **({} if triton.knobs.runtime.interpret else {"enable_fp_fusion": False}),
    )  # fmt: skip
    return out
