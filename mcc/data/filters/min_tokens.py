"""The filter `min-tokens`: drops documents of few tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mcc.core.config import option
from mcc.core.errors import UsageError
from mcc.data.filtering import Filter, Rejected

# Words are looked for in so many characters a wanted token: enough for any prose.
_CHARS_PER_TOKEN = 16


@dataclass(frozen=True, kw_only=True)
class MinTokensOptions:
    """The bound, and what a token is.

    Raises:
        UsageError: a bound is negative.
    """

    tokens: int = option(128, "tokens of the shortest text that is kept")
    tokenizer: str = option("", "tokenizer.json or its folder; without one a token is a word between white space")
    vocab_file: str = option("", "GPT-2's vocab.json, instead of a tokenizer")
    merge_file: str = option("", "GPT-2's merges.txt")
    below_chars: int = option(0, "count only in texts with fewer characters, keep all others; 0: count in all")
    count_end: bool = option(False, "count the token at the end of a document too")

    def __post_init__(self) -> None:
        for name in ("tokens", "below_chars"):
            if getattr(self, name) < 0:
                raise UsageError(f"min-tokens: {name} = {getattr(self, name)} must not be negative")
        if bool(self.vocab_file) != bool(self.merge_file):
            raise UsageError("min-tokens: vocab_file and merge_file go together", "--vocab-file and --merge-file")
        if self.tokenizer and self.vocab_file:
            raise UsageError("min-tokens: both a tokenizer and a vocabulary file", "leave one of them out")


class MinTokens(Filter[MinTokensOptions]):
    """Drop text with fewer tokens (of a tokenizer, or words) than a bound.

    >>> MinTokens(MinTokensOptions(tokens=3)).keep("two words")
    Rejected(reason='2 words, fewer than 3')
    """

    Options = MinTokensOptions

    def __init__(self, options: MinTokensOptions | None = None) -> None:
        super().__init__(options)
        self._tokenizer: Any = None
        if self.options.tokenizer or self.options.vocab_file:
            from mcc.data.tokens.vocabulary import TokenizerFiles

            given = self.options
            self._tokenizer = TokenizerFiles(
                model=given.tokenizer or None,
                vocab_file=given.vocab_file or None,
                merge_file=given.merge_file or None,
            ).read()
        self._words_count = self._tokenizer is not None and _words_are_tokens(self._tokenizer.backend)

    def keep(self, text: str) -> str | Rejected:
        """The text as it is, when it is long enough."""
        wanted = self.options.tokens - self.options.count_end
        if 0 < self.options.below_chars <= len(text):
            return text
        if self._tokenizer is None:
            unit, count = "words", len(text.split())
        else:
            if self._words_count and _words(text[: wanted * _CHARS_PER_TOKEN]) >= wanted:
                return text
            unit, count = "tokens", len(self._tokenizer.encode(text))
        if count >= wanted:
            return text
        return Rejected(f"{count + self.options.count_end} {unit}, fewer than {self.options.tokens}")


def _words(text: str) -> int:
    return sum(map(bool, text.replace("\n", " ").split(" ")))


def _words_are_tokens(backend: Any) -> bool:
    """Whether every word between spaces gives a token at least: byte-level BPE never joins words."""
    splits = type(getattr(backend, "pre_tokenizer", None)).__name__ == "ByteLevel"
    if not splits or backend.normalizer is not None:
        return False
    return not any(" " in token.content.strip() for token in backend.get_added_tokens_decoder().values())
