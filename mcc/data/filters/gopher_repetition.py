"""The filter `gopher-repetition`: the repetition rules of Gopher."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mcc.core.config import option
from mcc.core.errors import UsageError
from mcc.data.filtering import Filter, Rejected

_PARAGRAPH = re.compile(r"\n\s*\n")
# Multiplies hashes of n-grams (odd, so that no bit is lost).
_BASE = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, kw_only=True)
class GopherRepetitionOptions:
    """The largest shares that are kept; the defaults are the paper's.

    Raises:
        UsageError: one is not a share.
    """

    lines: float = option(0.30, "lines that repeat an earlier one, of all lines")
    paragraphs: float = option(0.30, "paragraphs that repeat an earlier one, of all paragraphs")
    line_chars: float = option(0.20, "characters of such lines")
    paragraph_chars: float = option(0.20, "characters of such paragraphs")
    top_2: float = option(0.20, "characters of the most frequent 2-gram of words")
    top_3: float = option(0.18, "characters of the most frequent 3-gram")
    top_4: float = option(0.16, "characters of the most frequent 4-gram")
    repeated_5: float = option(0.15, "characters of 5-grams that occur twice or more")
    repeated_6: float = option(0.14, "characters of 6-grams that occur twice or more")
    repeated_7: float = option(0.13, "characters of 7-grams that occur twice or more")
    repeated_8: float = option(0.12, "characters of 8-grams that occur twice or more")
    repeated_9: float = option(0.11, "characters of 9-grams that occur twice or more")
    repeated_10: float = option(0.10, "characters of 10-grams that occur twice or more")

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value <= 1:
                raise UsageError(f"gopher-repetition: {name} = {value} must be from 0 to 1")


class GopherRepetition(Filter[GopherRepetitionOptions]):
    """Drop text that repeats lines, paragraphs or n-grams by Gopher's rules (Rae et al. 2021, table A1).

    Of the paper's open points: only the second and later occurrences of a line count as repeated; characters of words
    count, white space does not; characters in several repeated n-grams count once; the most frequent n-gram counts
    when it occurs twice or more.

    >>> GopherRepetition().keep("Buy now!\\nBuy now!\\nBuy now!").reason
    '2 of 3 lines repeat an earlier one, more than 30%'
    """

    Options = GopherRepetitionOptions

    def keep(self, text: str) -> str | Rejected:
        """The text as it is, when it repeats little."""
        bounds = self.options
        lines = [line for line in map(str.strip, text.split("\n")) if line]
        paragraphs = [part for part in map(str.strip, _PARAGRAPH.split(text)) if part]
        why = _repeated("lines", lines, bounds.lines, bounds.line_chars)
        why = why or _repeated("paragraphs", paragraphs, bounds.paragraphs, bounds.paragraph_chars)
        why = why or self._ngrams(text.split())
        return Rejected(why) if why else text

    def _ngrams(self, words: Sequence[str]) -> str | None:
        numbers: dict[str, int] = {}
        ids = np.array([numbers.setdefault(word, len(numbers)) for word in words], dtype=np.uint64)
        lengths = np.array(list(map(len, words)), dtype=np.int64)
        total = int(lengths.sum())
        # Characters before each word.
        before = np.concatenate([[0], np.cumsum(lengths)])
        mixed = (ids + np.uint64(1)) * _BASE
        mixed ^= mixed >> np.uint64(29)
        hashes = mixed
        for n in range(2, 11):
            if len(words) < n:
                return None
            # The hash of n words from that of n - 1. 64 bits: two different n-grams of a text do not meet.
            hashes = hashes[:-1] * _BASE + mixed[n - 1 :]
            hashes ^= hashes >> np.uint64(31)
            most = getattr(self.options, f"top_{n}" if n < 5 else f"repeated_{n}")
            share = (_top if n < 5 else _covered)(hashes, before, n) / total
            if share > most:
                what = f"the most frequent {n}-gram has" if n < 5 else f"repeated {n}-grams have"
                return f"{what} {share:.1%} of the characters, more than {most:.0%}"
        return None


def _repeated(what: str, parts: Sequence[str], share: float, char_share: float) -> str | None:
    different = set(parts)
    again = len(parts) - len(different)
    if again > share * len(parts):
        return f"{again} of {len(parts)} {what} repeat an earlier one, more than {share:.0%}"
    chars = sum(map(len, parts))
    again = chars - sum(map(len, different))
    if again > char_share * chars:
        return f"{again} of {chars} characters are in {what} that repeat an earlier one, more than {char_share:.0%}"
    return None


def _top(hashes: Any, before: Any, n: int) -> int:
    """Characters of the most frequent n-gram, of the longest when several are."""
    _, first, counts = np.unique(hashes, return_index=True, return_counts=True)
    top = int(counts.max())
    if top < 2:
        return 0
    chosen = first[counts == top]
    return top * int((before[chosen + n] - before[chosen]).max())


def _covered(hashes: Any, before: Any, n: int) -> int:
    """Characters of words in n-grams that occur twice or more, each once."""
    order = np.argsort(hashes, kind="stable")
    same = hashes[order[1:]] == hashes[order[:-1]]
    if not same.any():
        return 0
    again = np.zeros(len(hashes), dtype=bool)
    again[order[1:][same]] = True
    again[order[:-1][same]] = True
    starts = np.flatnonzero(again)
    # Intervals of n words, overlaps cut off.
    ends = np.minimum(starts + n, np.append(starts[1:], len(before) - 1))
    return int((before[ends] - before[starts]).sum())
