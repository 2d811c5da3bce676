"""Shingles: the runs of a few characters that a document is compared by, a whole block of documents at a time.

Hashes of shingles feed the sketches; the exact Jaccard index is computed on the shingles themselves, packed into 64-bit
numbers where they fit.
"""

# W windows (shingles with repetitions), N distinct shingles of a document

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

_U64 = np.uint64
# splitmix64 (Steele, Lea, Flood 2014).
_GOLDEN = _U64(0x9E3779B97F4A7C15)
_MIX = (_U64(0xBF58476D1CE4E5B9), _U64(0x94D049BB133111EB))
# Behind the last code point: fills up a text that is shorter than a shingle.
_NO_CHARACTER = 0x110000
# Twelve bits a character: five of them fit one 64-bit number, so that shingles are compared exactly.
_PACKED_BITS = 12
# Characters worked on at once: the arrays of a piece stay in the processor's cache, and a long text costs no memory.
PIECE_CHARS = 1 << 15
# Least and most slots of the table in which equal numbers meet, as powers of two.
_TABLE_BITS = (12, 22)
# Sets of strings are quicker for so few characters of a pair.
_SHORT = 400
# Shingles compared at once, about.
_COUNTED = 1 << 22


def mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A bijection of 64-bit numbers whose every output bit depends on every input bit."""
    out = values ^ (values >> _U64(30))
    out *= _MIX[0]
    out ^= out >> _U64(27)
    out *= _MIX[1]
    out ^= out >> _U64(31)
    return out


def windows(texts: Sequence[str], chars: int) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.int64]]]:
    """Hashes of all shingles of all texts, in arrays of about `PIECE_CHARS`.

    Yields:
        uint64[W] hashes, the same for the same characters in every text, and int64[W] the texts they belong to:
        `len(texts)` for windows that lie across two texts and count for nothing.

    A text shorter than a shingle is filled up and has one. ASCII shingles of up to eight characters have different
    numbers; others collide with a chance of 2**-32 at most.
    """
    plain: list[tuple[int, str]] = []
    other: list[tuple[int, str]] = []
    waiting = {True: 0, False: 0}
    nobody = len(texts)
    for row, text in enumerate(texts):
        for piece in _pieces(text, chars):
            is_plain = len(piece) >= chars and piece.isascii()
            group = plain if is_plain else other
            group.append((row, piece))
            waiting[is_plain] += len(piece)
            if waiting[is_plain] >= PIECE_CHARS:
                yield _hashed(group, chars, nobody, is_plain)
                group.clear()
                waiting[is_plain] = 0
    for group, is_plain in ((plain, True), (other, False)):
        if group:
            yield _hashed(group, chars, nobody, is_plain)


def _pieces(text: str, chars: int) -> Iterator[str]:
    """Parts of a long text that overlap, so that every shingle is in one."""
    if len(text) <= 2 * PIECE_CHARS:
        yield text
        return
    for start in range(0, len(text) - chars + 1, PIECE_CHARS):
        yield text[start : start + PIECE_CHARS + chars - 1]


def _hashed(
    group: list[tuple[int, str]], chars: int, nobody: int, plain: bool
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    owners = np.full((len(group), 2), nobody, dtype=np.int64)
    owners[:, 0] = [row for row, _ in group]
    counts = np.empty((len(group), 2), dtype=np.int64)
    counts[:, 0] = [max(len(piece) - chars, 0) + 1 for _, piece in group]
    counts[:, 1] = chars - 1
    joined = "".join(piece if len(piece) >= chars else piece.ljust(chars, "\0") for _, piece in group)
    rows = np.repeat(owners.ravel(), counts.ravel())[: len(joined) - chars + 1]
    if plain and chars <= 8:
        return packed_bytes(joined, chars), rows
    points = _code_points(joined)
    starts = np.concatenate(([0], np.cumsum(counts.sum(axis=1))))
    for i in np.flatnonzero(counts[:, 0] == 1).tolist():  # only there can a text have been filled up
        length = len(group[i][1])
        points[starts[i] + length : starts[i] + chars] = _NO_CHARACTER
    # ASCII stands for itself, so that both ways give the same number; the rest spreads over 64 bits.
    points = np.where(points < 128, points, mixed(points))
    count = len(points) - chars + 1
    hashed = points[chars - 1 :].copy()
    for i in range(chars - 2, -1, -1):
        if chars <= 8:
            hashed <<= _U64(8)
        else:
            hashed *= _GOLDEN
        hashed += points[i : i + count]
    return hashed, rows


def packed_bytes(text: str, chars: int) -> NDArray[np.uint64]:
    """uint64[W]: the characters of each shingle of an ASCII text, eight bits each; `chars` is at most eight."""
    raw = text.encode("ascii") + b"\0" * 8
    found = np.ndarray((len(text) - chars + 1,), dtype="<u8", buffer=raw, strides=(1,))
    return found & _U64((1 << 8 * chars) - 1)


def _code_points(text: str) -> NDArray[np.uint64]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)


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


def _plain_shingles(text: str, chars: int) -> set[str]:
    return {text[i : i + chars] for i in range(max(len(text) - chars, 0) + 1)}


class Comparer:
    """Exact Jaccard indices of many pairs of texts, by tables instead of sorting.

    Args:
        chars: characters of a shingle.
    """

    def __init__(self, chars: int) -> None:
        self.chars = chars
        # Character -> its number in packed shingles, given as characters come; 0: not seen yet.
        self._numbers = np.zeros(_NO_CHARACTER, dtype=np.uint64)
        self._used = 0
        self._tables: dict[int, NDArray[np.uint32]] = {}

    def jaccard(self, left: str, right: str) -> float:
        """The same as the function of that name; memory does not grow with the texts."""
        if left == right:
            return 1.0
        if len(left) + len(right) < _SHORT:
            return jaccard(left, right, self.chars)
        plain = self.chars <= 8 and left.isascii() and right.isascii()
        if min(len(left), len(right)) < self.chars or not (plain or self._can_pack(left + right)):
            return jaccard(left, right, self.chars)
        # Of a long text the shingles whose hash is this or that are counted in turn.
        turns = -(-(len(left) + len(right)) // _COUNTED)
        common = union = 0
        for turn in range(turns):
            one, other = (self._packed(text, plain, turn, turns) for text in (left, right))
            counts = self._count(np.concatenate((one, other)), len(one))
            common, union = common + counts[0], union + counts[1]
        return common / union

    def _can_pack(self, text: str) -> bool:
        """Number the characters of `text`; False when there are too many for exact packed shingles."""
        if self.chars * _PACKED_BITS > 64:
            return False
        for start in range(0, len(text), PIECE_CHARS):
            points = _code_points(text[start : start + PIECE_CHARS])
            new = np.unique(points[self._numbers[points] == 0])
            if self._used + len(new) >= 1 << _PACKED_BITS:
                return False
            self._numbers[new] = np.arange(self._used + 1, self._used + len(new) + 1, dtype=np.uint64)
            self._used += len(new)
        return True

    def _packed(self, text: str, plain: bool, turn: int, turns: int) -> NDArray[np.uint64]:
        """Shingles with repetitions as numbers: bytes, or the characters' numbers."""
        parts = []
        for piece in _pieces(text, self.chars):
            if plain:
                packed = packed_bytes(piece, self.chars)
            else:
                numbers = self._numbers[_code_points(piece)]
                count = len(numbers) - self.chars + 1
                packed = numbers[:count].copy()
                for i in range(1, self.chars):
                    packed <<= _U64(_PACKED_BITS)
                    packed |= numbers[i : i + count]
            parts.append(packed if turns == 1 else packed[mixed(packed) % _U64(turns) == turn])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _count(self, values: NDArray[np.uint64], first: int) -> tuple[int, int]:
        """How many different values are both among the `first` ones and behind them, and how many there are."""
        common = union = 0
        bits = min(max((2 * len(values)).bit_length(), _TABLE_BITS[0]), _TABLE_BITS[1])
        if bits not in self._tables:
            self._tables[bits] = np.zeros(1 << bits, dtype=np.uint32)
        table = self._tables[bits]
        multiplier = int(_GOLDEN)
        while len(values):
            slots = (values * _U64(multiplier)) >> _U64(64 - bits)
            table[slots] = np.arange(len(values), dtype=np.uint32)
            # Which value a slot holds in the end: it stands for all that are equal to it.
            winners = table[slots]
            driven_out = values[winners] != values
            lost = np.flatnonzero(driven_out)
            winners[lost] = len(values)
            seen = np.zeros((2, len(values) + 1), dtype=bool)
            seen[0, winners[:first]] = True
            seen[1, winners[first:]] = True
            seen[:, -1] = False
            common += int(np.count_nonzero(seen[0] & seen[1]))
            union += int(np.count_nonzero(seen[0] | seen[1]))
            # The others try again with other slots.
            values, first = values[lost], int(np.searchsorted(lost, first))
            multiplier = multiplier * int(_MIX[0]) % (1 << 64)
        return common, union
