"""MinHash sketches of a whole block of documents at a time, and the bands by which near-duplicates meet.

Fast similarity sketching (Dahlgaard, Knudsen, Thorup 2017): every shingle chooses one of K slots, the least value in a
slot stays; slots that nothing chose are tried again with another hash. One pass over the text instead of K, and for any
number of shingles two sketches agree in a share of slots that estimates their Jaccard index as well as K permutations
do.
"""

# n documents, K slots of a sketch (a power of two), b bands, r rows, W windows

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mcc.core.errors import UsageError
from mcc.data.near_duplicates.shingles import PIECE_CHARS, mixed, windows

# Another number when sketches of the same text become different: fingerprints of other versions are refused.
SKETCH_VERSION = 1
_U64 = np.uint64
_MULTIPLIERS = (_U64(0xD6E8FEB86659FD93), _U64(0xCF1BBCDCB7A56463))
_ROUND = 0xA0761D6478BD642F
_EMPTY = 0xFFFFFFFF
# After so many attempts slots are still empty in documents of a few shingles only; those are filled one by one.
_ATTEMPTS = 128


@dataclass(frozen=True)
class Bands:
    """A pair of documents becomes a candidate when all `rows` values of one of `bands` bands agree."""

    bands: int
    rows: int

    def candidate_probability(self, jaccard: float) -> float:
        """`1 - (1 - J^rows)^bands`, for sketches whose values agree with probability J.

        >>> round(Bands(16, 8).candidate_probability(0.8), 3)
        0.947
        """
        return float(1 - (1 - jaccard**self.rows) ** self.bands)


@lru_cache
def choose_bands(threshold: float, num_perm: int = 256) -> Bands:
    """The bands that datasketch chooses when a missed duplicate counts 199 times a needless comparison.

    Candidates are compared exactly, so a needless one costs a moment; a missed one stays in the corpus.

    Raises:
        UsageError: the threshold is not between 0 and 1, or the sketch too short.
    """
    if not 0 < threshold <= 1:
        raise UsageError(f"threshold = {threshold} must be above 0 and at most 1")
    if num_perm < 2:
        raise UsageError(f"num_perm = {num_perm} must be at least 2")
    if (threshold, num_perm) == (0.8, 256):
        return Bands(30, 8)  # what it answers by default; to ask takes half a second, most of it to import scipy
    from datasketch import MinHashLSH

    # Its choice has no solution close to 1; bands for a lower threshold find those documents too.
    chosen = MinHashLSH(threshold=min(threshold, 0.95), num_perm=num_perm, weights=(0.005, 0.995))
    return Bands(chosen.b, chosen.r)


class Signer:
    """Makes sketches of K >= bands * rows values, and the keys of their bands.

    Args:
        bands: from `choose_bands`.
        chars: characters of a shingle.
    """

    def __init__(self, bands: Bands, chars: int) -> None:
        self.bands = bands
        self.chars = chars
        self._bits = max((bands.bands * bands.rows - 1).bit_length(), 1)
        self.slots = 1 << self._bits
        self._slot_salts = mixed(np.arange(1, self.slots + 1, dtype=np.uint64))
        self._row_salts = mixed(np.arange(1 << 32, (1 << 32) + bands.rows, dtype=np.uint64)) | _U64(1)

    def sketches(self, texts: Sequence[str]) -> NDArray[np.uint32]:
        """uint32[n, K]."""
        found = np.full((len(texts) + 1, self.slots), _EMPTY, dtype=np.uint32)
        for hashes, rows in windows(texts, self.chars):
            slots, values = self._chosen(hashes, rows, 0)
            np.minimum.at(found.reshape(-1), slots, values.astype(np.uint32))
        for some in _groups(np.flatnonzero((found[:-1] == _EMPTY).any(axis=1)).tolist(), texts):
            found[some] = self._filled(found[some], [texts[i] for i in some])
        return found[:-1]

    def _chosen(
        self, hashes: NDArray[np.uint64], rows: NDArray[np.int64], attempt: int
    ) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        """The slot that each shingle chooses, in the flat array of all sketches, and its value, below 2^32."""
        values = hashes + _U64(_ROUND * attempt & (1 << 64) - 1)
        values *= _MULTIPLIERS[0]
        values ^= values >> _U64(32)
        values *= _MULTIPLIERS[1]
        slots = (values >> _U64(64 - self._bits)).view(np.int64)
        slots += rows << self._bits
        values >>= _U64(32 - self._bits)
        values &= _U64(_EMPTY)
        return slots, values

    def _filled(self, found: NDArray[np.uint32], texts: Sequence[str]) -> NDArray[np.uint32]:
        """The sketches with their empty slots filled."""
        parts = [(h, r) for h, r in _distinct_windows(texts, self.chars) if len(h)]
        hashes, rows = (np.concatenate(each) for each in zip(*parts, strict=True))
        hashes, rows = hashes[rows < len(texts)], rows[rows < len(texts)]
        # Above each value stands the attempt it comes from: an earlier one is never replaced.
        wide = found.astype(np.uint64)
        nothing = _U64(_ATTEMPTS << 32)
        wide[found == _EMPTY] = nothing
        needy = np.arange(len(texts))
        for attempt in range(1, _ATTEMPTS):
            slots, values = self._chosen(hashes, rows, attempt)
            np.minimum.at(wide.reshape(-1), slots, values | _U64(attempt << 32))
            if attempt < 8 or attempt % 8 == 0:
                needy = needy[(wide[needy] == nothing).any(axis=1)]
                if not len(needy):
                    break
                still = np.zeros(len(texts), dtype=bool)
                still[needy] = True
                chosen = still[rows]
                hashes, rows = hashes[chosen], rows[chosen]
        # A document of a few shingles: the least value for each slot on its own.
        for i in needy.tolist():
            own = hashes[rows == i]
            slots = np.flatnonzero(wide[i] == nothing)
            values = (own[:, None] ^ self._slot_salts[slots]) * _MULTIPLIERS[0]
            wide[i, slots] = (mixed(values) >> _U64(32)).min(axis=0)
        return wide.astype(np.uint32)

    def band_keys(self, sketches: NDArray[np.uint32]) -> NDArray[np.uint64]:
        """uint64[b, n]: one number for the rows of each band."""
        count, rows = self.bands.bands, self.bands.rows
        values = sketches[:, : count * rows].reshape(len(sketches), count, rows)
        keys = np.zeros((count, len(sketches)), dtype=np.uint64)
        for i, salt in enumerate(self._row_salts):
            keys *= salt
            keys += values[:, :, i].T
            keys = mixed(keys)
        return keys


def _groups(chosen: list[int], texts: Sequence[str]) -> Iterator[list[int]]:
    """The chosen texts, some at a time: their windows stay in the processor's cache."""
    group: list[int] = []
    chars = 0
    for i in chosen:
        group.append(i)
        chars += len(texts[i])
        if chars >= PIECE_CHARS:
            yield group
            group, chars = [], 0
    if group:
        yield group


def _distinct_windows(texts: Sequence[str], chars: int) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.int64]]]:
    """`windows`, but a long text (it repeats itself, or its slots would be full) gives few: its distinct ones."""
    short = [text if len(text) <= 4 * PIECE_CHARS else "" for text in texts]
    for hashes, rows in windows(short, chars):
        yield hashes, np.where(_is_long(texts)[rows], len(texts), rows)
    for i, text in enumerate(texts):
        if len(text) > 4 * PIECE_CHARS:
            found = np.zeros(0, dtype=np.uint64)
            for hashes, rows in windows([text], chars):
                found = np.unique(np.concatenate((found, hashes[rows == 0])))
            yield found, np.full(len(found), i, dtype=np.int64)


def _is_long(texts: Sequence[str]) -> NDArray[np.bool_]:
    return np.array([*(len(text) > 4 * PIECE_CHARS for text in texts), False])
