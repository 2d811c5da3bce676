"""N-grams looked for in many documents at once.

A rolling hash of as many words as the shortest n-gram has (8 at most) is looked up for every position in one bit
table; what passes is compared with the hashes of whole n-grams. What is left is nearly always a match, and the rule
compares it as text.
"""

# W words of all texts, n words of an n-gram

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcc.data.ngrams.words import Words, split_words

_SCREEN_WORDS = 8
_BITS_EACH = 64  # of the table, for one n-gram, at least
# Texts are taken together up to so many characters: what one pass makes still fits into the processor's cache.
_TOGETHER_CHARS = 100_000
_LONG_CHARS = 300_000
_WORD, _GAP = re.compile(r"\w+"), re.compile(r"\W")


@dataclass(frozen=True)
class Suspect:
    """A text that may hold n-grams.

    Args:
        number: of the text among those searched.
        words, place: its words, and which text of theirs it is.
        candidates: (position, words) of what may be n-grams: by position, the longest first, then by length.
    """

    number: int
    words: Words
    place: int
    candidates: list[tuple[int, int]]


@dataclass(frozen=True)
class NgramHashes:
    """What the search compares with.

    Args:
        whole: number of words -> the hashes of n-grams of so many, sorted.
        first: hashes of their first words, as many as the search looks at, sorted.
    """

    whole: dict[int, NDArray[np.uint64]]
    first: NDArray[np.uint64]

    @classmethod
    def of(cls, texts: Sequence[str], max_ngram: int) -> NgramHashes:
        """Those of texts (words in lower case, one space between them): of `max_ngram` words from every position on,
        or of the whole of a shorter text."""
        sizes = np.minimum([text.count(" ") + 1 for text in texts], max_ngram)
        whole: dict[int, list[NDArray[np.uint64]]] = {n: [] for n in np.unique(sizes).tolist()}
        powers, screen = _powers(max_ngram), _screen_words(whole)
        first = [np.zeros(0, dtype=np.uint64)]
        for batch in _batches(texts):
            words = split_words(batch)
            bounds = np.searchsorted(words.starts, words.offsets)
            counts = np.diff(bounds)
            at = np.arange(len(words.values))
            n = np.repeat(np.minimum(counts, max_ngram), counts)
            inside = at + n <= np.repeat(bounds[1:], counts)
            at, n = at[inside], n[inside]
            first.append(_rolling(words.values, screen)[at])
            for size in np.unique(n).tolist():
                whole[size].append(_hashes(words.values, at[n == size], powers[:size]))
        return cls({n: np.sort(np.concatenate(found)) for n, found in whole.items()}, np.sort(np.concatenate(first)))

    def save(self, path: Path) -> None:
        """Write them, uncompressed."""
        arrays: dict[str, Any] = {"first": self.first, **{str(n): hashes for n, hashes in self.whole.items()}}
        with path.open("wb") as file:
            np.savez(file, **arrays)

    @classmethod
    def load(cls, path: Path) -> NgramHashes:
        """Those that `save` wrote."""
        with np.load(path) as arrays:
            return cls({int(name): arrays[name] for name in arrays.files if name != "first"}, arrays["first"])


class NgramIndex:
    """Finds n-grams in documents.

    Args:
        hashes: of the n-grams.
        max_ngram: words of the longest; documents with fewer words are not looked at.
        numbers: gives every n-gram and its number; asked when one may have been found.

    Attributes:
        lengths: how many words n-grams have, ascending.
    """

    def __init__(self, hashes: NgramHashes, max_ngram: int, numbers: Callable[[], Mapping[str, int]]) -> None:
        self._given_numbers = numbers
        self.max_ngram = max_ngram
        self._hashes = hashes.whole
        self._first = hashes.first
        self.lengths = sorted(hashes.whole)
        self._powers = _powers(max_ngram)
        self._screen_words = _screen_words(hashes.whole)
        # A byte holds 8 of the table's bits; which one is said by the lowest bits of the hash, which byte by the top.
        top = max(10, (max(len(self._first), 1) * _BITS_EACH // 8 - 1).bit_length())
        self._shift = np.uint64(64 - top)
        self._table = np.zeros(1 << top, dtype=np.uint8)
        np.bitwise_or.at(self._table, self._first >> self._shift, _bit(self._first))

    @cached_property
    def numbers(self) -> Mapping[str, int]:
        """Every n-gram and its number."""
        return self._given_numbers()

    def find(self, texts: Sequence[str]) -> Iterator[Suspect]:
        """Every text that may hold an n-gram, in order."""
        number = 0
        for batch in _batches(texts):
            if len(batch[0]) < _LONG_CHARS or self._may_hold(batch[0]):
                yield from self._find(split_words(batch), number)
            number += len(batch)

    def _may_hold(self, text: str) -> bool:
        """Whether a long text may hold an n-gram, looked for piece by piece."""
        return any(len(self._matches(split_words([piece]))[0]) for piece in _pieces(text, self.max_ngram))

    def _find(self, words: Words, first: int) -> Iterator[Suspect]:
        at, n = self._matches(words)
        texts = np.searchsorted(words.offsets, words.starts[at], side="right") - 1
        bounds = [*np.flatnonzero(np.diff(texts, prepend=-1)).tolist(), len(texts)]
        for begin, end in pairwise(bounds):
            place = int(texts[begin])
            mine = words.of(place)
            if mine.stop - mine.start < self.max_ngram:
                continue  # the rule does not look at such documents
            inside = at[begin:end] + n[begin:end] <= mine.stop
            found = (at[begin:end][inside] - mine.start).tolist()
            if found:
                lengths = n[begin:end][inside].tolist()
                yield Suspect(first + place, words, place, list(zip(found, lengths, strict=True)))

    def _matches(self, words: Words) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Positions where n-grams may stand, and their lengths, in the order in which the rule looks."""
        hashed = _rolling(words.values, self._screen_words)
        positions = np.flatnonzero(self._table[hashed >> self._shift] & _bit(hashed))
        if len(self.lengths) > 1 and len(positions):  # else the whole n-gram is compared as quickly
            candidates = hashed[positions]
            places = np.minimum(np.searchsorted(self._first, candidates), len(self._first) - 1)
            positions = positions[self._first[places] == candidates]
        hits = [self._hits(words, positions, length) for length in self.lengths] if len(positions) else []
        at = np.concatenate([np.zeros(0, dtype=np.int64), *hits])
        n = np.repeat(self.lengths[: len(hits)], [len(found) for found in hits]).astype(np.int64)
        order = np.lexsort((n, n != self.max_ngram, at))
        return at[order], n[order]

    def _hits(self, words: Words, positions: NDArray[np.int64], length: int) -> NDArray[np.int64]:
        """Those of the positions where an n-gram of some length may stand."""
        positions = positions[positions + length <= len(words.values)]
        hashes = _hashes(words.values, positions, self._powers[:length])
        known = self._hashes[length]
        places = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
        return positions[known[places] == hashes]


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    """Texts to be taken together; a long one is alone."""
    batch: list[str] = []
    size = 0
    for text in texts:
        if batch and (size >= _TOGETHER_CHARS or len(text) >= _LONG_CHARS):
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += len(text)
    if batch:
        yield batch


def _pieces(text: str, words: int) -> Iterator[str]:
    """A text in pieces of whole words; each goes on so far that no `words` words are in none of them.

    >>> list(_pieces("one two three four", 2)) == ["one two three four"]
    True
    """
    start = 0
    while start < len(text):
        cut = start + _TOGETHER_CHARS
        found = _GAP.search(text, cut) if cut < len(text) else None
        if found is None:
            yield text[start:]
            return
        # The words behind the cut that an n-gram from before it may reach.
        behind = [word.end() for word in islice(_WORD.finditer(text, found.start()), words)]
        yield text[start : behind[-1] if behind else found.start()]
        start = found.start()


def _hashes(values: NDArray[np.uint64], positions: NDArray[np.int64], powers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The hashes of as many words as there are powers, from every position on."""
    hashes = np.zeros(len(positions), dtype=np.uint64)
    for i, power in enumerate(powers):
        hashes += values[positions + i] * power
    return hashes


def _powers(count: int) -> NDArray[np.uint64]:
    return np.random.default_rng(1).integers(1, 1 << 63, size=count, dtype=np.uint64) | np.uint64(1)


def _screen_words(lengths: Iterable[int]) -> int:
    """How many words the screen looks at."""
    return min([_SCREEN_WORDS, *lengths])


def _rolling(values: NDArray[np.uint64], size: int) -> NDArray[np.uint64]:
    """A hash of `size` words from every position on [W - size + 1]."""
    steps = _doublings(size)
    for step, factor in zip(steps, _powers(len(steps)), strict=True):
        count = max(len(values) - step, 0)
        values = values[:count] + values[step : step + count] * factor
    return values


def _doublings(words: int) -> list[int]:
    """How far behind each hash the one lies that is added to it, until hashes span `words`.

    >>> _doublings(8), _doublings(5)
    ([1, 2, 4], [1, 2, 1])
    """
    steps = []
    spanned = 1
    while spanned < words:
        steps.append(min(spanned, words - spanned))
        spanned += steps[-1]
    return steps


def _bit(hashed: NDArray[np.uint64]) -> NDArray[np.uint8]:
    return np.left_shift(np.uint8(1), (hashed & np.uint64(7)).astype(np.uint8))
