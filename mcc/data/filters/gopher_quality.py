"""The filter `gopher-quality`: the quality rules of Gopher."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mcc.core.config import option
from mcc.core.errors import UsageError
from mcc.data.filtering import Filter, Rejected

_BULLETS = ("•", "‣", "◦", "●", "▪", "-", "*", "–")
_ELLIPSES = ("...", "…")
_WORD = re.compile(r"[^\W_]+")
_LETTER = re.compile(r"[^\W\d_]")


@dataclass(frozen=True, kw_only=True)
class GopherQualityOptions:
    """The bounds; the defaults are the paper's.

    Raises:
        UsageError: one is negative.
    """

    min_words: int = option(50, "least words")
    max_words: int = option(100_000, "most words")
    min_mean_word: float = option(3.0, "least mean length of a word")
    max_mean_word: float = option(10.0, "greatest mean length of a word")
    max_symbols: float = option(0.1, "most hash signs a word, and most ellipses a word")
    max_bullets: float = option(0.9, "largest share of lines that begin with a bullet")
    max_ellipses: float = option(0.3, "largest share of lines that end with an ellipsis")
    min_alphabetic: float = option(0.8, "least share of words with a letter")
    min_stop_words: int = option(2, "least number of different stop words")
    stop_words: tuple[str, ...] = option(
        ("the", "be", "to", "of", "and", "that", "have", "with"), "the stop words, of the language that is kept"
    )

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, tuple) and value < 0:
                raise UsageError(f"gopher-quality: {name} = {value} must not be negative")


class GopherQuality(Filter[GopherQualityOptions]):
    """Drop text that is no prose by Gopher's quality rules (Rae et al. 2021, appendix A.1.1).

    Words stand between white space and are as long as they stand there, punctuation included.

    >>> GopherQuality().keep("Too short.")
    Rejected(reason='2 words, fewer than 50')
    """

    Options = GopherQualityOptions

    def __init__(self, options: GopherQualityOptions | None = None) -> None:
        super().__init__(options)
        self._stop_words = frozenset(self.options.stop_words)

    def keep(self, text: str) -> str | Rejected:
        """The text as it is, when it passes every rule."""
        words = text.split()
        why = self._words(words) or self._symbols(text, len(words)) or self._lines(text) or self._content(text, words)
        return Rejected(why) if why else text

    def _words(self, words: list[str]) -> str | None:
        bounds = self.options
        if len(words) < bounds.min_words:
            return f"{len(words)} words, fewer than {bounds.min_words}"
        if len(words) > bounds.max_words:
            return f"{len(words)} words, more than {bounds.max_words}"
        mean = sum(map(len, words)) / len(words) if words else 0.0
        if mean < bounds.min_mean_word:
            return f"words of {mean:.2f} characters on average, fewer than {bounds.min_mean_word:g}"
        if mean > bounds.max_mean_word:
            return f"words of {mean:.2f} characters on average, more than {bounds.max_mean_word:g}"
        return None

    def _symbols(self, text: str, words: int) -> str | None:
        for what, count in (("hash signs", text.count("#")), ("ellipses", sum(map(text.count, _ELLIPSES)))):
            if count > self.options.max_symbols * words:
                return f"{count} {what} to {words} words, more than {self.options.max_symbols:g} a word"
        return None

    def _lines(self, text: str) -> str | None:
        lines = [line for line in map(str.strip, text.split("\n")) if line]
        for what, count, most in (
            ("begin with a bullet", sum(line.startswith(_BULLETS) for line in lines), self.options.max_bullets),
            ("end with an ellipsis", sum(line.endswith(_ELLIPSES) for line in lines), self.options.max_ellipses),
        ):
            if count > most * len(lines):
                return f"{count} of {len(lines)} lines {what}, more than {most:.0%}"
        return None

    def _content(self, text: str, words: list[str]) -> str | None:
        bounds = self.options
        alphabetic = sum(word.isalpha() or _LETTER.search(word) is not None for word in words)
        if alphabetic < bounds.min_alphabetic * len(words):
            return f"{alphabetic} of {len(words)} words have a letter, fewer than {bounds.min_alphabetic:.0%}"
        found = self._stop_words.intersection(map(str.lower, words))
        if len(found) < bounds.min_stop_words:
            found |= self._stop_words.intersection(_WORD.findall(text.lower()))  # with punctuation around them
        if len(found) < bounds.min_stop_words:
            return f"{len(found)} different stop words, fewer than {bounds.min_stop_words}"
        return None
