"""The 13-gram rule on one document: where it matches, what is counted, what is cut out.

The rule reads a text from its start to the first n-gram, cuts it there, and reads the rest as a text of its own. So
that this stays linear in the text, a document is walked once and each match moves its start.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mcc.core.config import option
from mcc.core.errors import UsageError
from mcc.data.ngrams.lookup import NgramIndex, Suspect

_ENDS = ".!?"
_END = re.compile(r"[.!?]")


@dataclass(frozen=True, kw_only=True)
class CutConfig:
    """The numbers of the rule.

    Raises:
        UsageError: a number is out of bounds.
    """

    max_ngram: int = option(13, "words of an n-gram")
    min_ngram: int = option(8, "words of the shortest task text that is looked for")
    key_threshold: int = option(10, "n-grams in this many documents or more are left alone")
    remove_chars_each_side: int = option(200, "characters cut on either side, then on to the end of a sentence")
    min_piece_chars: int = option(200, "pieces of so many characters or fewer are dropped")
    max_pieces: int = option(10, "a document in more pieces is dropped")

    def __post_init__(self) -> None:
        if not 1 <= self.min_ngram <= self.max_ngram:
            raise UsageError(
                f"min_ngram = {self.min_ngram} must be at least 1 and at most max_ngram = {self.max_ngram}"
            )
        for name in ("key_threshold", "remove_chars_each_side", "min_piece_chars", "max_pieces"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} = {getattr(self, name)} must not be negative")


class SuspectDocument:
    """A document that may hold n-grams, walked from its start.

    Args:
        suspect: what `NgramIndex.find` gives.
        index: the n-grams.
        chosen: which of them count, by number; None for all.
    """

    def __init__(self, suspect: Suspect, index: NgramIndex, chosen: NDArray[np.bool_] | None = None) -> None:
        self._text = suspect.words.texts[suspect.place]
        self._starts, self._ends = suspect.words.characters(suspect.place)
        self._candidates = suspect.candidates
        self._index = index
        self._chosen = chosen
        self._next = 0

    def first_match(self, base: int) -> tuple[int, str] | None:
        """(character position, n-gram) of the first match in the text from `base` on, in the rule's order: at each
        position the longest n-gram and then the others by length."""
        if base >= len(self._text):
            return None
        top = self._index.max_ngram
        first = bisect_left(self._starts, base)
        inside_word = first > 0 and base < self._ends[first - 1]
        count = len(self._starts) - first + inside_word
        if count < top:
            return None
        if inside_word and (found := self._match_from_inside(first, base)) is not None:
            return base, found
        # Words from here on are the last n-gram: shorter ones within it come after all others, by length.
        last = len(self._starts) - top
        while self._next < len(self._candidates) and self._candidates[self._next][0] < first:
            self._next += 1
        tail = []
        for i in range(self._next, len(self._candidates)):
            position, length = self._candidates[i]
            if position > last:
                if count > top:
                    tail.append((length, position))
            elif (ngram := self._ngram(position, length)) is not None:
                return self._starts[position], ngram
        for length, position in sorted(tail):
            if length < top and (ngram := self._ngram(position, length)) is not None:
                return self._starts[position], ngram
        return None

    def count(self) -> set[str]:
        """The n-grams met when reading on behind each match."""
        found = set()
        base = 0
        while (match := self.first_match(base)) is not None:
            start, ngram = match
            found.add(ngram)
            base = start + len(ngram) + 1
        return found

    def cut(self, text: str, config: CutConfig) -> tuple[list[str], list[str]]:
        """The pieces of `text` (as it is written) that stay (`[text]` when nothing matches), and the n-grams."""
        pieces: list[str] = []
        cut_out: list[str] = []
        base = 0
        while (match := self.first_match(base)) is not None:
            start, ngram = match
            cut_out.append(ngram)
            # Back from 200 characters before the match to the end of a sentence; its first character never is one.
            before = start - config.remove_chars_each_side
            end = max((text.rfind(mark, base + 1, before + 1) for mark in _ENDS), default=-1) if before > base else -1
            if end >= 0 and end + 1 - base > config.min_piece_chars:
                pieces.append(text[base : end + 1])
            found = _END.search(text, start + len(ngram) + config.remove_chars_each_side)
            base = found.end() if found else len(text)
            if len(text) - base <= config.min_piece_chars:
                return pieces, cut_out
        pieces.append(text[base:])
        return pieces, cut_out

    def _ngram(self, position: int, length: int) -> str | None:
        places = slice(position, position + length)
        ngram = " ".join([self._text[a:b] for a, b in zip(self._starts[places], self._ends[places], strict=True)])
        return ngram if self._counts(ngram) else None

    def _match_from_inside(self, first: int, base: int) -> str | None:
        """What matches from within a word that `base` stands inside of; counting may cut through one."""
        top = self._index.max_ngram
        places = zip(self._starts[first : first + top - 1], self._ends[first : first + top - 1], strict=True)
        words = [self._text[base : self._ends[first - 1]], *(self._text[a:b] for a, b in places)]
        sizes = (top, *self._index.lengths)
        return next((ngram for size in sizes if self._counts(ngram := " ".join(words[:size]))), None)

    def _counts(self, ngram: str) -> bool:
        number = self._index.numbers.get(ngram)
        return number is not None and (self._chosen is None or bool(self._chosen[number]))
