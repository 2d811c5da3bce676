"""Orthonormal rows of a thin matrix on the CPU, by its Gram matrix: a fraction of what Householder's QR takes.

    P[r, n] the matrix, r below n   G = D P P^T D, with D the rows' inverse lengths   G = L L^T   Q = L^-1 D P

Rows of Q are orthonormal, and span what those of P do, the first i what the first i do: QR but for signs. Rounding
errors of G stand in Q over `least`, the smallest square on L's diagonal: with every row of length 1, how far off the
plane of those before it a row lies. Where that is small the same is done again with Q in P's place, whose rows are
orthonormal enough to lose nothing ("Cholesky QR 2", Yamamoto, Nakatsukasa, Yanagisawa, Fukaya, Electron. Trans. Numer.
Anal. 44, 2015). What is too near to one plane for that, rows of zeros and numbers that are none are left to QR.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numba
import numpy as np
from numba import carray, njit

from mcc.train.compress.kernels.compiled import compile_program

_SPAN = 512  # columns that are worked on at once: more would be memory fetched anew each time
_ONCE, _TWICE = 0.02, 1e-4  # `least`, above which it is done once, or twice: rows are then orthonormal to 1e-5

# Sums in any order, so that they are taken on vectors.
_LOOPS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "boundscheck": False,
    "fastmath": {"reassoc", "contract", "nsz"},
}


@njit(**_LOOPS)
def _dots(t: Any, j: Any, k: Any, g: Any) -> None:
    """Add the products of rows j to j + 3 of t with rows k to k + 3 to g; all at once: each value is read once."""
    a0, a1, a2, a3, b0, b1, b2, b3 = t[j], t[j + 1], t[j + 2], t[j + 3], t[k], t[k + 1], t[k + 2], t[k + 3]
    s00 = s01 = s02 = s03 = s10 = s11 = s12 = s13 = np.float32(0)
    s20 = s21 = s22 = s23 = s30 = s31 = s32 = s33 = np.float32(0)
    for i in range(a0.size):
        x0, x1, x2, x3 = a0[i], a1[i], a2[i], a3[i]
        y0, y1, y2, y3 = b0[i], b1[i], b2[i], b3[i]
        s00, s01, s02, s03 = s00 + x0 * y0, s01 + x0 * y1, s02 + x0 * y2, s03 + x0 * y3
        s10, s11, s12, s13 = s10 + x1 * y0, s11 + x1 * y1, s12 + x1 * y2, s13 + x1 * y3
        s20, s21, s22, s23 = s20 + x2 * y0, s21 + x2 * y1, s22 + x2 * y2, s23 + x2 * y3
        s30, s31, s32, s33 = s30 + x3 * y0, s31 + x3 * y1, s32 + x3 * y2, s33 + x3 * y3
    _add(g[j], k, s00, s01, s02, s03)
    _add(g[j + 1], k, s10, s11, s12, s13)
    _add(g[j + 2], k, s20, s21, s22, s23)
    _add(g[j + 3], k, s30, s31, s32, s33)


@njit(**_LOOPS)
def _add(row: Any, k: Any, s0: Any, s1: Any, s2: Any, s3: Any) -> None:
    row[k] += s0
    row[k + 1] += s1
    row[k + 2] += s2
    row[k + 3] += s3


@njit(**_LOOPS)
def _mix(out: Any, t: Any, w: Any, j: Any, k: Any) -> None:
    """Add rows k to k + 3 of t, as w says, to rows j to j + 3 of out."""
    w00, w01, w02, w03 = w[j, k], w[j, k + 1], w[j, k + 2], w[j, k + 3]
    w10, w11, w12, w13 = w[j + 1, k], w[j + 1, k + 1], w[j + 1, k + 2], w[j + 1, k + 3]
    w20, w21, w22, w23 = w[j + 2, k], w[j + 2, k + 1], w[j + 2, k + 2], w[j + 2, k + 3]
    w30, w31, w32, w33 = w[j + 3, k], w[j + 3, k + 1], w[j + 3, k + 2], w[j + 3, k + 3]
    for i in range(t.shape[1]):
        x0, x1, x2, x3 = t[k, i], t[k + 1, i], t[k + 2, i], t[k + 3, i]
        out[j, i] += w00 * x0 + w01 * x1 + w02 * x2 + w03 * x3
        out[j + 1, i] += w10 * x0 + w11 * x1 + w12 * x2 + w13 * x3
        out[j + 2, i] += w20 * x0 + w21 * x1 + w22 * x2 + w23 * x3
        out[j + 3, i] += w30 * x0 + w31 * x1 + w32 * x2 + w33 * x3


@njit(**_LOOPS)
def _eliminate(one: Any, other: Any, pivot: Any, share: Any, share_of_other: Any, upto: Any) -> None:
    for k in range(upto):
        one[k] -= share * pivot[k]
        other[k] -= share_of_other * pivot[k]


@njit(**_LOOPS)
def _inverse(g: Any, r: Any, w: Any) -> Any:
    """w = L^-1 D of the Gram matrix g, lower triangles; `least`, or 0 where g has no such L."""
    scale = np.empty(r)
    for i in range(r):
        if not (g[i, i] > 0 and g[i, i] < np.inf):
            return 0.0
        scale[i] = 1 / math.sqrt(g[i, i])
    # Elimination beside the unit matrix, in one: up to column j a row has of the latter what was eliminated, beyond it
    # what is left of g. Two rows at a time and whole vectors, so that there is room for one row more.
    width = (r + 8) // 8 * 8
    a, pivot = np.zeros((r + 1, width)), np.zeros(width)
    for i in range(r):
        for j in range(i + 1):
            a[i, j] = scale[i] * scale[j] * g[i, j]
    least = 1.0
    for j in range(r):
        x = a[j, j]
        if not x > _TWICE:
            return 0.0
        least, inverse = min(least, x), 1 / x
        for k in range(j):
            pivot[k] = a[j, k]
        pivot[j] = 1
        for i in range(j + 1, r):
            pivot[i], a[i, j] = a[i, j], 0
        for i in range(j + 1, r, 2):
            shares = inverse * pivot[i], inverse * pivot[i + 1]
            _eliminate(a[i], a[i + 1], pivot, *shares, (i + 9) // 8 * 8)
        root = math.sqrt(inverse)
        for k in range(j + 1):
            w[j, k] = pivot[k] * scale[k] * root
    return least


@njit(**_LOOPS)
def _take(p: Any, start: Any, t: Any) -> None:
    """Columns of p from `start` on into t, zeros where there are none."""
    for j in range(p.shape[0]):
        row, some = t[j], p[j, start : start + t.shape[1]]
        for i in range(some.size):
            row[i] = some[i]
        for i in range(some.size, row.size):
            row[i] = 0


@njit(**_LOOPS)
def _rows(p: Any, out: Any, t: Any, o: Any) -> Any:
    """The rows of p made orthonormal into out, which may be p; `least`. t[4k, some columns] and o: room to work in."""
    (r, n), (high, width) = p.shape, t.shape
    g, w = np.zeros((high, high)), np.zeros((high, high))
    for start in range(0, n, width):
        _take(p, start, t)
        for j in range(0, high, 4):
            for k in range(0, j + 4, 4):
                _dots(t, j, k, g)
    least = _inverse(g, r, w)
    if least > 0:
        narrow = w.astype(np.float32)
        for start in range(0, n, width):
            if n > width:
                _take(p, start, t)
            o.fill(0)
            for j in range(0, high, 4):
                for k in range(0, j + 4, 4):
                    _mix(o, t, narrow, j, k)
            for j in range(r):
                some, row = out[j, start : start + width], o[j]
                for i in range(some.size):
                    some[i] = row[i]
    return least


def _program(r: Any, n: Any, p_: Any, out_: Any) -> Any:
    p, out = carray(p_, (r, n), np.float32), carray(out_, (r, n), np.float32)
    high, spans = (r + 3) // 4 * 4, (n + _SPAN - 1) // _SPAN
    width = ((n + spans - 1) // spans + 15) // 16 * 16
    t, o = np.zeros((high, width), np.float32), np.empty((high, width), np.float32)
    least = _rows(p, out, t, o)
    if least > 0 and least < _ONCE:
        least = _rows(out, out, t, o)
    return least >= _ONCE


@lru_cache
def orthonormalizer() -> Callable[..., bool]:
    """orthonormalize(r, n, p, out): orthonormal rows of fp32 p[r, n] into out[r, n]; False where QR is needed.

    r is at most n. p and out do not overlap.
    """
    count, address = numba.int64, numba.types.voidptr
    return compile_program(_program, count, count, address, address, result=numba.boolean)
