"""The filter `whitespace`: makes white space uniform."""

from __future__ import annotations

import re

from mcc.data.filtering import Filter, NoOptions

_LINE_END = re.compile(r"\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_BLANK_LINES = re.compile(r"\n{3,}")
# Spaces that only typesetting tells apart, and marks that take no room at all.
_SPACES = str.maketrans(
    {**dict.fromkeys("\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000", " ")}
    | dict.fromkeys("\u200b\u2060\ufeff\x00")
)


class Whitespace(Filter[NoOptions]):
    """Make line ends and spaces uniform; no space at a line's end, no more than one blank line. Indentation stays.

    >>> Whitespace().keep("one \\r\\n\\r\\n\\r\\n\\r\\n  two\\u00a0three\\t")
    'one\\n\\n  two three'
    """

    def keep(self, text: str) -> str:
        """The text with uniform white space."""
        text = _LINE_END.sub("\n", text.translate(_SPACES))
        text = "\n".join(line.rstrip() for line in text.split("\n"))
        return _BLANK_LINES.sub("\n\n", text).strip("\n")
