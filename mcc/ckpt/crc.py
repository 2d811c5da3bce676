"""CRC-32 of two pieces from those of each (the method of zlib's crc32_combine, written anew).

A CRC is linear over the field of two elements: appending a zero byte multiplies the register, a vector of 32 bits, by
a fixed matrix. Appending n of them takes the matrices of the powers of two that n is made of.
"""

from __future__ import annotations

from functools import cache

_POLYNOMIAL = 0xEDB88320  # IEEE 802.3's, lowest bit first


def combine(first: int, second: int, length: int) -> int:
    """The CRC-32 of a, followed by b of `length` bytes, given each one's.

    >>> import zlib
    >>> combine(zlib.crc32(b"one "), zlib.crc32(b"after the other"), 15) == zlib.crc32(b"one after the other")
    True
    """
    power = 0
    while length:
        if length & 1:
            first = _times(_zeros(power), first)
        length >>= 1
        power += 1
    return first ^ second


@cache
def _zeros(power: int) -> tuple[int, ...]:
    """The matrix, by columns, that appends 2**power zero bytes."""
    if power == 0:
        bit = (_POLYNOMIAL, *(1 << n for n in range(31)))  # one zero bit
        two = _squared(bit)
        return _squared(_squared(two))
    return _squared(_zeros(power - 1))


def _squared(matrix: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(_times(matrix, column) for column in matrix)


def _times(matrix: tuple[int, ...], vector: int) -> int:
    out = 0
    for column in matrix:
        if vector & 1:
            out ^= column
        vector >>= 1
    return out
