"""The filter `min-tokens`: drops documents of few tokens."""

from __future__ import annotations

from dataclasses import dataclass

from mcc.core.config import option
from mcc.core.errors import UsageError
from mcc.data.filtering import Filter, Rejected


@dataclass(frozen=True, kw_only=True)
class MinTokensOptions:
    """The bound, and what a token is.

    Raises:
        UsageError: it is negative.
    """

    tokens: int = option(128, "tokens of the shortest text that is kept")
    tokenizer: str = option("", "tokenizer.json or its folder; without one a token is a word between white space")

    def __post_init__(self) -> None:
        if self.tokens < 0:
            raise UsageError(f"min-tokens: tokens = {self.tokens} must not be negative")


class MinTokens(Filter[MinTokensOptions]):
    """Drop text with fewer tokens (of a tokenizer, or words) than a bound.

    >>> MinTokens(MinTokensOptions(tokens=3)).keep("two words")
    Rejected(reason='2 words, fewer than 3')
    """

    Options = MinTokensOptions

    def __init__(self, options: MinTokensOptions | None = None) -> None:
        super().__init__(options)
        self._tokenizer = None
        if self.options.tokenizer:
            from mcc.data.tokenizer import load_tokenizer

            self._tokenizer = load_tokenizer(self.options.tokenizer)

    def keep(self, text: str) -> str | Rejected:
        """The text as it is, when it is long enough."""
        count = len(text.split() if self._tokenizer is None else self._tokenizer.encode(text))
        if count >= self.options.tokens:
            return text
        return Rejected(f"{count} {'words' if self._tokenizer is None else 'tokens'}, fewer than {self.options.tokens}")
