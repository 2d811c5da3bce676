"""The filter `min-chars`: drops short documents."""

from __future__ import annotations

from dataclasses import dataclass

from mcc.core.config import option
from mcc.core.errors import UsageError
from mcc.data.filtering import Filter, Rejected


@dataclass(frozen=True, kw_only=True)
class MinCharsOptions:
    """The bound.

    Raises:
        UsageError: it is negative.
    """

    chars: int = option(512, "characters of the shortest text that is kept")

    def __post_init__(self) -> None:
        if self.chars < 0:
            raise UsageError(f"min-chars: chars = {self.chars} must not be negative")


class MinChars(Filter[MinCharsOptions]):
    """Drop text with fewer characters than a bound.

    >>> MinChars(MinCharsOptions(chars=10)).keep("short")
    Rejected(reason='5 characters, fewer than 10')
    """

    Options = MinCharsOptions

    def keep(self, text: str) -> str | Rejected:
        """The text as it is, when it is long enough."""
        if len(text) >= self.options.chars:
            return text
        return Rejected(f"{len(text)} characters, fewer than {self.options.chars}")
