"""The filter `javascript`: drops the pages that only ask for JavaScript."""

from __future__ import annotations

from dataclasses import dataclass

from mcc.core.config import option
from mcc.core.errors import UsageError
from mcc.data.filtering import Filter, Rejected


@dataclass(frozen=True, kw_only=True)
class JavascriptOptions:
    """The bound.

    Raises:
        UsageError: it is negative.
    """

    chars: int = option(256, "only shorter texts are dropped; 0: drop whatever the length")

    def __post_init__(self) -> None:
        if self.chars < 0:
            raise UsageError(f"javascript: chars = {self.chars} must not be negative")


class Javascript(Filter[JavascriptOptions]):
    """Drop short text that speaks of JavaScript: what a page says to a reader that does not run it.

    >>> Javascript().keep("Please enable JavaScript to view this page.")
    Rejected(reason="43 characters, fewer than 256, with 'javascript'")
    """

    Options = JavascriptOptions

    def keep(self, text: str) -> str | Rejected:
        """The text as it is, when it is long or does not speak of it."""
        bound = self.options.chars
        if (bound and len(text) >= bound) or "javascript" not in text.lower():
            return text
        return Rejected(f"{len(text)} characters, fewer than {bound}, with 'javascript'" if bound else "'javascript'")
