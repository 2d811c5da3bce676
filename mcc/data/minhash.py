"""Near-duplicates by MinHash and locality-sensitive hashing, vectorised over the shingles of a document.

A document is the set of its runs of `shingle_chars` characters; likeness is the Jaccard index of two sets.
Signatures are one-permutation MinHash (Li, Owen, Zhang 2012) with optimal densification (Shrivastava 2017): one sort
a document in place of one pass a permutation.
"""

# N distinct shingles of a document, K signature length = bands * rows

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mcc.core.errors import UsageError

_U64 = np.uint64
# Odd multipliers of the shingle hash and constants of its finaliser (splitmix64, Steele et al. 2014).
_MULTIPLIER = _U64(0x9E3779B97F4A7C15)
_MIX = (_U64(0xBF58476D1CE4E5B9), _U64(0x94D049BB133111EB))
# Twelve bits a character: five of them fit one 64-bit number, so that shingles are compared exactly.
_PACKED_BITS = 12
# Behind the last code point: fills up a text that is shorter than a shingle.
_NO_CHARACTER = 0x110000


@dataclass(frozen=True)
class Bands:
    """A pair of documents becomes a candidate when all `rows` values of one of `bands` bands agree."""

    bands: int
    rows: int

    def candidate_probability(self, jaccard: float) -> float:
        """`1 - (1 - J^rows)^bands`, for signatures whose values agree with probability J.

        >>> round(Bands(16, 8).candidate_probability(0.8), 3)
        0.947
        """
        return float(1 - (1 - jaccard**self.rows) ** self.bands)


def choose_bands(threshold: float, num_perm: int = 128) -> Bands:
    """The bands that datasketch chooses when a missed duplicate counts 49 times a needless comparison.

    Candidates are compared exactly, so a needless one costs a moment; a missed one stays in the corpus.

    Raises:
        UsageError: the threshold is not between 0 and 1, or the signature is too short for it.
    """
    from datasketch import MinHashLSH

    if not 0 < threshold <= 1:
        raise UsageError(f"threshold = {threshold} must be above 0 and at most 1")
    if num_perm < 2:
        raise UsageError(f"num_perm = {num_perm} must be at least 2")
    try:
        # Its choice has no solution close to 1; bands for a lower threshold find those documents too.
        chosen = MinHashLSH(threshold=min(threshold, 0.95), num_perm=num_perm, weights=(0.02, 0.98))
    except ValueError as error:
        raise UsageError(f"num_perm = {num_perm} is too small for threshold = {threshold}", "128 is usual") from error
    return Bands(chosen.b, chosen.r)


def shingles(text: str, chars: int) -> NDArray[np.uint64]:
    """uint64[N], sorted: a hash of every distinct run of `chars` characters; of the whole text when it is shorter."""
    points = _code_points(text)
    if len(points) == 0:
        return points
    if len(points) < chars:
        points = np.concatenate((points, np.full(chars - len(points), _NO_CHARACTER, dtype=np.uint64)))
    windows = len(points) - chars + 1
    hashed = np.zeros(windows, dtype=np.uint64)
    for i in range(chars):
        hashed *= _MULTIPLIER
        hashed += points[i : i + windows]
    return _distinct(_mixed(hashed))


def _code_points(text: str) -> NDArray[np.uint64]:
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), dtype=np.uint8).astype(np.uint64)
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)


def _distinct(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    values.sort()
    return values[np.concatenate(([True], values[1:] != values[:-1]))]


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A bijection of 64-bit numbers whose every output bit depends on every input bit."""
    mixed = values ^ (values >> _U64(30))
    mixed *= _MIX[0]
    mixed ^= mixed >> _U64(27)
    mixed *= _MIX[1]
    mixed ^= mixed >> _U64(31)
    return mixed


class Alphabet:
    """Numbers the characters of a corpus as they come, so that a shingle's packed numbers are exact, not a hash."""

    def __init__(self) -> None:
        # 0: not seen yet.
        self._numbers = np.zeros(_NO_CHARACTER, dtype=np.uint64)
        self._used = 0

    def shingles(self, text: str, chars: int) -> NDArray[np.uint64] | None:
        """uint64[N], sorted: the distinct shingles of `text`; None when they cannot be packed into 64 bits.

        That is so for texts shorter than a shingle, for long shingles, and past 4,095 different characters.
        """
        if chars * _PACKED_BITS > 64 or len(text) < chars:
            return None
        points = _code_points(text)
        numbers = self._numbers[points]
        if not numbers.all():
            new = np.unique(points[numbers == 0])
            if self._used + len(new) >= 1 << _PACKED_BITS:
                return None
            self._numbers[new] = np.arange(self._used + 1, self._used + len(new) + 1, dtype=np.uint64)
            self._used += len(new)
            numbers = self._numbers[points]
        windows = len(numbers) - chars + 1
        packed = numbers[:windows].copy()
        for i in range(1, chars):
            packed <<= _U64(_PACKED_BITS)
            packed |= numbers[i : i + windows]
        return _distinct(packed)


def jaccard(left: str, right: str, chars: int) -> float:
    """The exact Jaccard index of the shingle sets of two texts; 1 for two empty ones.

    >>> jaccard("abcdef", "abcdeg", 5)
    0.3333333333333333
    """
    if left == right:
        return 1.0
    if not left or not right:
        return 0.0
    one, other = (_plain_shingles(text, chars) for text in (left, right))
    return len(one & other) / len(one | other)


def set_jaccard(left: NDArray[np.uint64], right: NDArray[np.uint64]) -> float:
    """The Jaccard index of two sorted sets without repetitions."""
    both = np.concatenate((left, right))
    both.sort(kind="stable")  # two sorted runs: merged, not sorted
    common = int(np.count_nonzero(both[1:] == both[:-1]))
    return common / (len(both) - common)


def _plain_shingles(text: str, chars: int) -> set[str]:
    return {text[i : i + chars] for i in range(max(len(text) - chars, 0) + 1)}


class Signer:
    """Makes signatures of K = bands * rows values, and the keys of their bands.

    Args:
        bands: from `choose_bands`.
        seed: of densification; signatures of different seeds cannot be compared.
    """

    def __init__(self, bands: Bands, seed: int = 1) -> None:
        self.bands = bands
        self.length = bands.bands * bands.rows
        generator = np.random.default_rng(seed)
        # Where an empty bin borrows from, at its first, second, ... try: the same for every document.
        self._donors = generator.integers(0, self.length, size=(64, self.length))
        width = -(-(1 << 64) // self.length)
        self._bounds = np.array([i * width for i in range(1, self.length)], dtype=np.uint64)
        self._band_salt = generator.integers(1, 1 << 63, size=bands.rows, dtype=np.uint64) | _U64(1)

    def signature(self, shingles: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """uint64[K]: for each of K equal ranges of hashes the least hash in it, or that of a range which has one.

        Args:
            shingles: uint64[N], N > 0, sorted hashes as `shingles` makes them: they are the permutation.
        """
        starts = np.zeros(self.length + 1, dtype=np.int64)
        starts[1:-1] = np.searchsorted(shingles, self._bounds)
        starts[-1] = len(shingles)
        empty = starts[:-1] == starts[1:]
        values = shingles[np.minimum(starts[:-1], len(shingles) - 1)]
        if empty.any():
            values = self._densified(values, empty)
        return values

    def _densified(self, values: NDArray[np.uint64], empty: NDArray[np.bool_]) -> NDArray[np.uint64]:
        out = values.copy()
        missing = np.flatnonzero(empty)
        for donors in self._donors:
            chosen = donors[missing]
            found = ~empty[chosen]
            out[missing[found]] = values[chosen[found]]
            missing = missing[~found]
            if not missing.size:
                return out
        # So few bins are filled that no try met one: the first filled bin serves, for equal sets the same one.
        out[missing] = values[np.flatnonzero(~empty)[0]]
        return out

    def band_keys(self, signature: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """uint64[bands]: one number for the rows of each band."""
        rows = signature.reshape(self.bands.bands, self.bands.rows)
        keys = np.zeros(self.bands.bands, dtype=np.uint64)
        for i, salt in enumerate(self._band_salt):
            keys = _mixed(keys * salt + rows[:, i])
        return keys
