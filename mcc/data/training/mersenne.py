"""The 64-bit Mersenne Twister (Nishimura 2000, C++'s std::mt19937_64), and the shuffle that Megatron-LM draws from it.

NumPy has the 32-bit generator alone; the indices of BERT's samples are shuffled by this one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_WORDS, _MIDDLE = 312, 156
_MATRIX = np.uint64(0xB5026F5AA96619E9)
_UPPER, _LOWER = np.uint64(0xFFFFFFFF80000000), np.uint64(0x7FFFFFFF)
_MULTIPLIER = 6364136223846793005
_MASK64 = (1 << 64) - 1
# Draws made at once by the shuffle.
_BLOCK = 1 << 16


class Mersenne64:
    """The stream of std::mt19937_64 for a seed.

    >>> int(Mersenne64(5489).draw(10_000)[-1])  # the C++ standard's check value
    9981545732273789042
    """

    def __init__(self, seed: int) -> None:
        state = [seed & _MASK64]
        for i in range(1, _WORDS):
            state.append((_MULTIPLIER * (state[-1] ^ (state[-1] >> 62)) + i) & _MASK64)
        self._state = np.array(state, dtype=np.uint64)
        self._left = np.empty(0, dtype=np.uint64)

    def draw(self, count: int) -> NDArray[np.uint64]:
        """uint64[count]: the next numbers."""
        parts, missing = [self._left], count - len(self._left)
        while missing > 0:
            parts.append(self._next())
            missing -= _WORDS
        drawn = np.concatenate(parts)
        self._left = drawn[count:]
        return drawn[:count]

    def _next(self) -> NDArray[np.uint64]:
        """The next 312 numbers. A word needs the one 156 places on, so the state is renewed in two halves."""
        old = self._state
        new = np.empty_like(old)
        new[:_MIDDLE] = old[_MIDDLE:] ^ _twisted(old[:_MIDDLE], old[1 : _MIDDLE + 1])
        after = np.concatenate((old[_MIDDLE + 1 :], new[:1]))
        new[_MIDDLE:] = new[:_MIDDLE] ^ _twisted(old[_MIDDLE:], after)
        self._state = new
        x = new ^ ((new >> np.uint64(29)) & np.uint64(0x5555555555555555))
        x = x ^ ((x << np.uint64(17)) & np.uint64(0x71D67FFFEDA60000))
        x = x ^ ((x << np.uint64(37)) & np.uint64(0xFFF7EEE000000000))
        return x ^ (x >> np.uint64(43))


def _twisted(here: NDArray[np.uint64], after: NDArray[np.uint64]) -> NDArray[np.uint64]:
    y = (here & _UPPER) | (after & _LOWER)
    return (y >> np.uint64(1)) ^ np.where(y & np.uint64(1), _MATRIX, np.uint64(0))


def shuffled(count: int, seed: int) -> NDArray[np.int64]:
    """int64[count]: 0 .. count-1 in the order that Fisher and Yates' shuffle gives, from the last place down.

    Place i changes with place `draw % (i + 1)`.
    """
    order = list(range(count))
    generator = Mersenne64(seed)
    for top in range(count - 1, 0, -_BLOCK):
        places = np.arange(top, max(top - _BLOCK, 0), -1, dtype=np.uint64)
        others = (generator.draw(len(places)) % (places + np.uint64(1))).tolist()
        for i, j in zip(range(top, top - len(others), -1), others, strict=True):
            order[i], order[j] = order[j], order[i]
    return np.array(order, dtype=np.int64)
