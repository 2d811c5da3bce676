"""How often each word occurs, in bounded memory: frequent words are counted, rare ones sampled.

When the table is full, the words seen less often than some bound are thinned out: those whose hash is a multiple of
2^k stay and stand for 2^k words of their kind. It is lossy counting (Manku and Motwani 2002) with a sample of what is
lost, so that languages without spaces, whose "words" hardly ever come again, keep their weight.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

# Words seen so often are never thinned out at first; the bound doubles when they are too many.
_FREQUENT = 4
_AT_ONCE = 10_000


class WordCounts:
    """Counts words.

    Args:
        most: words in the table.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._counts: Counter[str] = Counter()
        self._level = 0
        self._frequent = _FREQUENT

    def __len__(self) -> int:
        return len(self._counts)

    def add(self, words: Iterable[str] | Mapping[str, int]) -> None:
        """Count words; a call should bring few compared with `most`."""
        self._counts.update(words)
        if len(self._counts) > self._most:
            self._thin()

    def add_counts(self, counts: Mapping[str, int]) -> None:
        """Count words that were counted elsewhere; as many as you like."""
        found = iter(counts.items())
        while some := dict(islice(found, _AT_ONCE)):
            self.add(some)

    def _thin(self) -> None:
        """Thin out until a quarter of the table is free."""
        frequent = sum(1 for n in self._counts.values() if n >= self._frequent)
        while frequent > self._most // 2:
            self._frequent *= 2
            frequent = sum(1 for n in self._counts.values() if n >= self._frequent)
        self._level = max(self._level, 1)
        while True:
            kept = {word: n for word, n in self._counts.items() if n >= self._frequent or self._stays(word)}
            if len(kept) <= self._most * 3 // 4:
                break
            self._level += 1
        self._counts = Counter(kept)

    def _stays(self, word: str) -> bool:
        return zlib.crc32(word.encode(errors="surrogatepass")) % (1 << self._level) == 0

    def items(self) -> Iterator[tuple[str, int]]:
        """(word, count), most frequent first; a rare word's count stands for those that were thinned out too."""
        weighted = (
            (word, n if n >= self._frequent or not self._level else n << self._level)
            for word, n in self._counts.items()
            if n >= self._frequent or self._stays(word)
        )
        yield from sorted(weighted, key=lambda pair: (-pair[1], pair[0]))
