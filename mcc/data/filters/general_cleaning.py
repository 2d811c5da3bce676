"""The filter `general-cleaning`: the white space rule of Megatron-LM's second cleaning script."""

from __future__ import annotations

import re

from mcc.data.filtering import Filter, NoOptions

# A run of spaces; and newlines behind a letter, digit or underscore, with one space behind them.
_RUNS = re.compile(r"  +|\b\n+ ?")


class GeneralCleaning(Filter[NoOptions]):
    """Turn runs of spaces, and newlines behind a word, into one space; `whitespace` keeps the lines.

    >>> GeneralCleaning().keep("two  words\\nhere.\\n\\nNew")
    'two words here.\\n\\nNew'
    """

    def keep(self, text: str) -> str:
        """The text with fewer lines."""
        return _RUNS.sub(" ", text)
