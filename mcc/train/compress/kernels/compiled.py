"""The two programs of `cpu`, and how they are compiled.

    count values   W columns   short: bfloat16, by its bits

They take addresses: for small tensors, making arrays of tensors would cost as much as the work. Compiled once a machine
and kept in numba's cache: beside this file, else in the user's cache folder or where NUMBA_CACHE_DIR says; where
nothing can be written, compiled by every process. Ranks that start together wait for the first, rather than all
compile the same.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba import carray

from mcc.core.errors import MccError
from mcc.core.files import write_text
from mcc.train.compress.groups import HEADROOM
from mcc.train.compress.kernels import loops
from mcc.train.compress.kernels.loops import (
    COMPILED,
    SPAN,
    add,
    largest,
    largest_short,
    levels,
    levels_each,
    narrow,
    pack,
    round_short,
    scales,
    unpack,
    values,
    values_each,
    widen,
    widest,
)

_SPARE = loops.spare_words()


def _encode(
    bits: Any,
    columns: Any,
    size: Any,
    short: Any,
    x_: Any,
    count: Any,
    scale_: Any,
    groups: Any,
    packed_: Any,
    nbytes: Any,
) -> None:
    half = np.float32(1 << (bits - 1))
    x = carray(x_, 0 if short else count, np.float32)
    y = carray(x_, count if short else 0, np.uint16)
    scale, packed = carray(scale_, groups, np.uint16), carray(packed_, nbytes, np.uint8)
    q, spare = np.empty(SPAN, np.uint8), np.empty(_SPARE, np.uint64)
    # Scales of columns stand side by side, those of narrow rows several times; other groups' are found span by span.
    span = size * max(1, 512 // size) if columns else size
    held = span if columns else SPAN
    found, inverse = np.zeros(held, np.uint32), np.empty(held, np.float32)
    wide = np.empty(max(span, SPAN) if columns else SPAN, np.uint32)
    if columns:
        for at in range(0, count, span):
            upto = min(at + span, count)
            if short:
                widen(y[at:upto], wide)
                widest(wide[: upto - at], found)
            else:
                widest(x[at:upto].view(np.uint32), found)
        for i in range(size, span):
            found[i % size] = max(found[i % size], found[i])
        scales(found[:size], half, scale, inverse[:size])
        for i in range(size, span):
            inverse[i] = inverse[i - size]
    now = np.float32(0)  # of the group at hand, which an earlier span may have begun
    for start in range(0, count, SPAN):
        stop = min(start + SPAN, count)
        if short:
            widen(y[start:stop], wide)
        some = wide.view(np.float32)[: stop - start] if short else x[start:stop]
        into = packed[start:stop] if bits == 8 else q
        at, group = start, start // span
        if columns:
            while at < stop:
                upto = min((group + 1) * span, stop)
                each = inverse[at - group * span : upto - group * span]
                levels_each(some[at - start : upto - start], each, half, into[at - start : upto - start])
                at, group = upto, group + 1
        else:
            first = (start + size - 1) // size  # of the groups that begin in this span
            begun = (stop + size - 1) // size - first
            for i in range(begun):
                upto = min((first + i + 1) * size, count)
                if short:
                    found[i] = largest_short(y[(first + i) * size : upto])
                else:
                    found[i] = largest(x[(first + i) * size : upto].view(np.uint32))
            scales(found[:begun], half, scale[first : first + begun], inverse[:begun])
            while at < stop:
                upto = min((group + 1) * size, stop)
                if group >= first:
                    now = inverse[group - first]
                levels(some[at - start : upto - start], now, half, into[at - start : upto - start])
                at, group = upto, group + 1
        if bits < 8:
            words = (stop - start + 7) // 8
            for i in range(stop - start, 8 * words):
                q[i] = np.uint8(0)
            at = start // 8 * bits
            pack(q[: 8 * words], bits, spare, packed[at : min(at + words * bits, nbytes)])


def _decode(
    bits: Any,
    columns: Any,
    size: Any,
    short: Any,
    adds: Any,
    out_: Any,
    count: Any,
    scale_: Any,
    groups: Any,
    packed_: Any,
    nbytes: Any,
) -> None:
    half = np.float32(1 << (bits - 1))
    middle = np.float32(0.5) - half
    as_bits = short and not adds
    out = carray(out_, 0 if as_bits else count, np.float32)
    out_bits = carray(out_, count if as_bits else 0, np.uint16)
    scale, packed = carray(scale_, groups, np.uint16), carray(packed_, nbytes, np.uint8)
    q, spare = np.empty(SPAN, np.uint8), np.empty(_SPARE, np.uint64)
    wide = np.empty(SPAN, np.uint32)
    x = wide.view(np.float32)
    span = size * max(1, 512 // size) if columns else size
    steps = np.empty(span if columns else groups, np.uint32)
    widen(scale, steps)
    step = steps.view(np.float32)
    for i in range(groups):
        step[i] = step[i] / half
    if columns:
        for i in range(size, span):
            step[i] = step[i - size]
    for start in range(0, count, SPAN):
        stop = min(start + SPAN, count)
        if bits == 8:
            some = packed[start:stop]
        else:
            words = (stop - start + 7) // 8
            at = start // 8 * bits
            unpack(packed[at : min(at + words * bits, nbytes)], bits, spare, q[: 8 * words])
            some = q
        into = x[: stop - start] if short or adds else out[start:stop]
        at, group = start, start // span
        if columns:
            while at < stop:
                upto = min((group + 1) * span, stop)
                each = step[at - group * span : upto - group * span]
                values_each(some[at - start : upto - start], each, middle, into[at - start : upto - start])
                at, group = upto, group + 1
        else:
            while at < stop:
                upto = min((group + 1) * size, stop)
                values(some[at - start : upto - start], step[group], middle, into[at - start : upto - start])
                at, group = upto, group + 1
        if short:
            round_short(wide[: stop - start])
        if adds:
            add(x[: stop - start], out[start:stop])
        elif short:
            narrow(wide[: stop - start], out_bits[start:stop])


_ADDRESS, _COUNT, _FLAG = numba.types.voidptr, numba.int64, numba.boolean


@lru_cache
def encoder() -> Callable[..., None]:
    """encode(bits, columns, size, short, x, count, scale, groups, packed, bytes).

    Args, as `Layout` has them: bits, columns, size, count, groups. x[count] is fp32, or the bits of bfloat16 if
    `short`; scale[groups] are written as bits of bfloat16, packed as uint8[bytes].
    """
    return compile_program(_encode, _COUNT, _FLAG, _COUNT, _FLAG, _ADDRESS, _COUNT, _ADDRESS, _COUNT, _ADDRESS, _COUNT)


@lru_cache
def decoder() -> Callable[..., None]:
    """decode(bits, columns, size, short, adds, out, count, scale, groups, packed, bytes): the inverse.

    Args:
        short: values are rounded to bfloat16, and out[count] is the bits of them.
        adds: out[count] is an fp32 sum to which the values are added; rounded first, if `short`.
    """
    return compile_program(
        _decode, _COUNT, _FLAG, _COUNT, _FLAG, _FLAG, _ADDRESS, _COUNT, _ADDRESS, _COUNT, _ADDRESS, _COUNT
    )


def compile_program(program: Callable[..., Any], *arguments: Any, result: Any = numba.void) -> Callable[..., Any]:
    """`program` compiled for arguments of these types, or read from the cache. It runs without Python's lock."""
    signature = result(*arguments)
    options = {name: COMPILED[name] for name in ("error_model", "boundscheck")}
    try:
        folder = Path(numba.njit(cache=True)(program)._cache.cache_path)
        with _one_at_a_time(folder):
            _forget_others(folder)
            return _called(numba.cfunc(signature, cache=True, **options)(program))
    except (RuntimeError, OSError, MccError):  # no folder that a cache could be in, or no room in it
        return _called(numba.cfunc(signature, **options)(program))


def _forget_others(folder: Path) -> None:
    """Forget what was compiled of other loops, or with another number in them.

    numba compiles anew when a program's own file has changed, but does not look at what it takes from elsewhere.
    """
    now = hashlib.blake2b(Path(loops.__file__).read_bytes() + repr(HEADROOM).encode(), digest_size=16).hexdigest()
    noted = folder / "mcc-kernels.hash"
    if noted.exists() and noted.read_bytes() == now.encode():
        return
    for index in folder.glob("*.nbi"):
        index.unlink(missing_ok=True)
    write_text(noted, now)  # last: whoever is killed before leaves it to the next


def _called(program: Any) -> Callable[..., Any]:
    found: Callable[..., Any] = program.ctypes
    found.program = program  # type: ignore[attr-defined]  # the machine code goes with it
    return found


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Wait for other processes within; where nothing can be locked, go on."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "mcc-kernels.lock").open("ab")
    except OSError:
        yield
        return
    with lock:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
