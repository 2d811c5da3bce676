"""Loops over values for the kernels of `cpu`, compiled by numba. Each takes flat arrays and leaves them vectorisable.

    q   levels, one a byte     u, w   the same memory as wider unsigned integers

Numba makes a loop as wide as the processor's vectors only where an array is indexed by the loop's own variable, so
callers hand over slices. What it makes of narrower whole numbers has 64 bits: `_u32(...)` around each step keeps twice
as many in a vector.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from mcc.train.compress.groups import HEADROOM

_u8, _u16, _u32, _u64, _i32, _f32 = np.uint8, np.uint16, np.uint32, np.uint64, np.int32, np.float32

# No fast mathematics: results are those of torch, bit for bit.
COMPILED: dict[str, Any] = {"nogil": True, "error_model": "numpy", "boundscheck": False, "forceinline": True}

SPAN = 4096  # values that are worked on at once: their levels stay in the nearest cache
_QUIET_NAN = _u32(0x7FC00000)
_PAIRS, _FOURS = _u64(0x0001000100010001), _u64(0x0000000100000001)
_MAGNITUDE, _INFINITY = _u32(0x7FFFFFFF), _u32(0x7F800000)
_HEADROOM = _f32(HEADROOM)


@njit(**COMPILED)
def largest(u: Any) -> Any:
    """The greatest of |x|, as the bits of an fp32, for u the bits of fp32 values. NaN counts as above infinity."""
    found = _u32(0)
    for i in range(u.size):
        found = _u32(max(found, _u32(u[i] & _MAGNITUDE)))
    return found


@njit(**COMPILED)
def largest_short(u: Any) -> Any:
    """As `largest`, for u the bits of bfloat16 values."""
    found = _u16(0)
    for i in range(u.size):
        found = _u16(max(found, _u16(u[i] & _u16(0x7FFF))))
    return _u32(found) << _u32(16)


@njit(**COMPILED)
def widest(u: Any, found: Any) -> None:
    """The greatest of found and |x| element by element, into found, as bits of fp32."""
    for i in range(u.size):
        found[i] = max(found[i], _u32(u[i] & _MAGNITUDE))


@njit(**COMPILED)
def scales(found: Any, half: Any, scale: Any, inverse: Any) -> None:
    """From bits of max|x| (overwritten) the scales, as bits of bfloat16, and how many levels a unit has under each."""
    x = found.view(np.float32)
    for i in range(x.size):
        x[i] = x[i] * _HEADROOM
    round_short(found)
    for i in range(x.size):
        scale[i] = _u16(found[i] >> _u32(16))
    for i in range(x.size):
        y = _f32(1) / x[i] * half
        inverse[i] = y if y < _f32(np.inf) else _f32(0)


@njit(**COMPILED)
def widen(short: Any, u: Any) -> None:
    """bfloat16 bits as fp32 bits."""
    for i in range(short.size):
        u[i] = _u32(short[i]) << _u32(16)


@njit(**COMPILED)
def round_short(u: Any) -> None:
    """Round fp32 bits to those that bfloat16 has, in place."""
    for i in range(u.size):
        v = u[i]
        odd = _u32(_u32(v >> _u32(16)) & _u32(1))
        r = _u32(_u32(_u32(v + _u32(0x7FFF)) + odd) & _u32(0xFFFF0000))
        u[i] = r if _u32(v & _MAGNITUDE) <= _INFINITY else _QUIET_NAN


@njit(**COMPILED)
def narrow(u: Any, short: Any) -> None:
    """fp32 bits that are a bfloat16's as bfloat16 bits."""
    for i in range(short.size):
        short[i] = _u16(u[i] >> _u32(16))


@njit(**COMPILED)
def _level(y: Any, half: Any, top: Any) -> Any:
    """The level that begins at or below y. Of NaN any: its group decodes to no number whatever the level is.

    None is above top but by a scale that bfloat16 holds coarsely, below 2**-126. Processors cut off what a byte does
    not hold while they make bytes: 0 and 255 cost nothing.
    """
    level = _i32(min(_i32(_i32(np.floor(y)) + half), top))
    return _u8(min(max(level, _i32(0)), _i32(255)))


@njit(**COMPILED)
def levels(x: Any, inverse: Any, half: Any, q: Any) -> None:
    """The level of each x under one scale."""
    middle, top = _i32(half), _i32(half + half - _f32(1))
    for i in range(x.size):
        q[i] = _level(x[i] * inverse, middle, top)


@njit(**COMPILED)
def levels_each(x: Any, inverse: Any, half: Any, q: Any) -> None:
    """The level of each x under its own scale."""
    middle, top = _i32(half), _i32(half + half - _f32(1))
    for i in range(x.size):
        q[i] = _level(x[i] * inverse[i], middle, top)


@njit(**COMPILED)
def values(q: Any, step: Any, middle: Any, x: Any) -> None:
    """The value of each level under one scale."""
    for i in range(q.size):
        x[i] = (_f32(q[i]) + middle) * step


@njit(**COMPILED)
def values_each(q: Any, step: Any, middle: Any, x: Any) -> None:
    """The value of each level under its own scale."""
    for i in range(q.size):
        x[i] = (_f32(q[i]) + middle) * step[i]


@njit(**COMPILED)
def add(x: Any, total: Any) -> None:
    """Add x to total."""
    for i in range(x.size):
        total[i] += x[i]


@njit(**COMPILED)
def copy(a: Any, b: Any) -> None:
    """Put a into b, as many as b holds."""
    for i in range(b.size):
        b[i] = a[i]


@njit(**COMPILED)
def pack(q: Any, bits: Any, spare: Any, out: Any) -> None:
    """q[count, up to 8 more] as out: `bits.pack_bits`, bits below 8. `spare` holds 2 * (SPAN // 8 + 8) words."""
    if bits == 4:
        w = q.view(np.uint16)
        for i in range(out.size):
            out[i] = _u8((w[i] | (w[i] >> _u16(4))) & _u16(0xFF))
    else:
        _pack_any(q.view(np.uint64), bits, spare, out)


@njit(**COMPILED)
def _pack_any(u: Any, bits: Any, spare: Any, out: Any) -> None:
    """8 values a word: neighbours are joined until they lie side by side, then words are."""
    half = spare.size // 2
    words, dense = spare[:half], spare[half:]
    b, gap = _u64(bits), _u64(8 - bits)
    one = (_u64(1) << b) - _u64(1)
    low, low2, low4 = one * _PAIRS, ((one << b) | one) * _FOURS, (_u64(1) << (b * _u64(4))) - _u64(1)
    for i in range(u.size):
        v = (u[i] & low) | ((u[i] >> gap) & (low << b))
        v = (v & low2) | ((v >> (gap + gap)) & (low2 << (b + b)))
        words[i] = (v & low4) | (v >> (gap * _u64(4)) & (low4 << (b * _u64(4))))
    held, filled, at = _u64(0), 0, 0
    for i in range(u.size):
        word = words[i]
        held |= word << _u64(filled)
        filled += 8 * bits
        if filled >= 64:
            dense[at] = held
            at += 1
            filled -= 64
            held = word >> _u64(8 * bits - filled)
    dense[at] = held
    copy(dense.view(np.uint8), out)


@njit(**COMPILED)
def unpack(packed: Any, bits: Any, spare: Any, q: Any) -> None:
    """The inverse of `pack`: q as long as a multiple of 8."""
    if bits == 4:
        w = q.view(np.uint16)
        for i in range(packed.size):
            a = _u16(packed[i])
            w[i] = (a | (a << _u16(4))) & _u16(0x0F0F)
    else:
        _unpack_any(packed, bits, spare, q.view(np.uint64))


@njit(**COMPILED)
def _unpack_any(packed: Any, bits: Any, spare: Any, u: Any) -> None:
    half = spare.size // 2
    words, dense = spare[:half], spare[half:]
    copy(packed, dense.view(np.uint8)[: packed.size])
    for i in range(u.size):
        at, shift = i * bits // 8, _u64(i * bits % 8 * 8)
        words[i] = (dense[at] >> shift) | ((dense[at + 1] << _u64(1)) << (_u64(63) - shift))
    b, gap = _u64(bits), _u64(8 - bits)
    one = (_u64(1) << b) - _u64(1)
    low, low2, low4 = one * _PAIRS, ((one << b) | one) * _FOURS, (_u64(1) << (b * _u64(4))) - _u64(1)
    for i in range(u.size):
        v = (words[i] & low4) | ((words[i] & (low4 << (b * _u64(4)))) << (gap * _u64(4)))
        v = (v & low2) | ((v & (low2 << (b + b))) << (gap + gap))
        u[i] = (v & low) | ((v & (low << b)) << gap)


def spare_words() -> int:
    """Length of `spare`, for `pack` and `unpack`."""
    return 2 * (math.ceil(SPAN / 8) + 8)
