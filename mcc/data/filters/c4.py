"""The filter `c4`: the rules of the Colossal Clean Crawled Corpus."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from mcc.core.config import option
from mcc.core.errors import MccError, UsageError
from mcc.core.files import require_file
from mcc.data.filtering import Filter, Rejected

_TERMINAL = (".", "!", "?", '"', "”", "'", "’")
_SENTENCE = re.compile(r"""[.!?]+["”'’)\]]*(?=\s|$)""")
_CITATION = re.compile(r" ?\[(?:\d+|citation needed|edit)\]", re.IGNORECASE)
_POLICY = (
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
)


@dataclass(frozen=True, kw_only=True)
class C4Options:
    """Which rules apply; the defaults are the paper's.

    Raises:
        UsageError: a bound is negative.
    """

    min_sentences: int = option(3, "least sentences of a text, when its lines are chosen")
    min_line_words: int = option(5, "drop lines with fewer words; 0: keep them")
    terminal: bool = option(True, "drop lines that do not end in . ! ? or a quotation mark")
    javascript: bool = option(True, "drop lines that speak of JavaScript")
    policy: bool = option(True, "drop lines about terms of use, privacy and cookies")
    citations: bool = option(True, "drop marks like [1] and [citation needed]")
    lorem_ipsum: bool = option(True, "reject texts with 'lorem ipsum'")
    curly_bracket: bool = option(True, "reject texts with { as code")
    bad_words: str = option("", "file of words, one a line: texts with one of them are rejected")

    def __post_init__(self) -> None:
        for name in ("min_sentences", "min_line_words"):
            if getattr(self, name) < 0:
                raise UsageError(f"c4: {name} = {getattr(self, name)} must not be negative")


class C4(Filter[C4Options]):
    """Keep only lines that are sentences, drop pages that are code or placeholders (Raffel et al. 2020, section 2.2).

    C4 also wants English with probability 0.99 (`language`) and has each three sentences once (`mcc data dedup`).

    >>> C4(C4Options(min_sentences=1)).keep("Menu\\nThe ferry crossed the water [1].\\nWe use cookies to serve you.")
    'The ferry crossed the water.'
    """

    Options = C4Options

    def __init__(self, options: C4Options | None = None) -> None:
        super().__init__(options)
        self._bad_words = _word_pattern(self.options.bad_words) if self.options.bad_words else None

    def keep(self, text: str) -> str | Rejected:
        """The lines that are kept."""
        rules = self.options
        if rules.curly_bracket and "{" in text:
            return Rejected("a curly bracket")
        lower = text.lower()
        if rules.lorem_ipsum and "lorem ipsum" in lower:
            return Rejected("lorem ipsum")
        if self._bad_words is not None and (found := self._bad_words.search(lower)):
            return Rejected(f"the word {found.group()!r}")
        if rules.citations and "[" in text:
            text = _CITATION.sub("", text)
        lines = [line for line in map(str.strip, text.split("\n")) if self._keeps(line)]
        text = "\n".join(lines)
        sentences = len(_SENTENCE.findall(text))
        if sentences < rules.min_sentences:
            return Rejected(f"{sentences} sentences, fewer than {rules.min_sentences}")
        return text

    def _keeps(self, line: str) -> bool:
        rules = self.options
        if not line or (rules.terminal and (not line.endswith(_TERMINAL) or line.endswith("..."))):
            return False
        if len(line.split(None, rules.min_line_words)) < rules.min_line_words:
            return False
        lower = line.lower()
        if rules.javascript and "javascript" in lower:
            return False
        return not (rules.policy and any(phrase in lower for phrase in _POLICY))


def _word_pattern(name: str) -> re.Pattern[str]:
    path = require_file(Path(name), "list of words")
    try:
        words = [word.strip().lower() for word in path.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise MccError(f"{path} is not UTF-8: {error}", "give one word a line") from None
    words = sorted(filter(None, words))
    if not words:
        raise MccError(f"{path} holds no words", "give one word a line")
    return re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, words)) + r")(?!\w)")
