"""Natural text from a tokenized corpus, so that a model of natural text may be scored on it.

The rules for WikiText are those of Megatron-LM's zero-shot evaluation (arXiv 1909.08053, section 5.3 and appendix E):
every published adjusted perplexity uses them, so their quirks are kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from mcc.core.errors import unknown

# WikiText writes 1 @,@ 000 for 1,000 and 2 @-@ year for 2-year.
_NUMBERS = tuple((f" @{sign}@ ", sign) for sign in "-,.")
# White space stands before these; it goes, and the one after them stays.
_POINTS = tuple((f" {sign} ", f"{sign} ") for sign in ":;.!?,")
# Nothing but white space is lost inside a pair; a quotation mark pairs with the next one.
_PAIRS = tuple(
    (re.compile(rf"{re.escape(left)}\s*([^{re.escape(right)}]*?)\s*{re.escape(right)}"), rf"{left}\1{right}")
    for left, right in ("()", "[]", "{}", '""', "''")
)
# Headings, degrees, line ends, N that stands for a number in older corpora, and the genitive.
_REST = (
    ("= = = =", "===="),
    ("= = =", "==="),
    ("= =", "=="),
    (" \N{DEGREE SIGN} ", "\N{DEGREE SIGN}"),
    (" \n", "\n"),
    ("\n ", "\n"),
    (" N ", " 1 "),
    (" 's", "'s"),
)


def wikitext(text: str) -> str:
    r"""WikiText as it was before it was tokenized.

    >>> wikitext(" = = Size = = \n It weighs 1 @,@ 000 kg ( 2 @,@ 200 lb ) , dogs ' food . ")
    " == Size ==\nIt weighs 1,000 kg (2,200 lb), dogs' food. "
    """
    text = text.replace("s '", "s'")
    for old, new in (*_NUMBERS, *_POINTS):
        text = text.replace(old, new)
    for pattern, replacement in _PAIRS:
        text = pattern.sub(replacement, text)
    for old, new in _REST:
        text = text.replace(old, new)
    return text


_DETOKENIZERS: dict[str, Callable[[str], str]] = {"wikitext": wikitext}


def detokenizer(name: str) -> Callable[[str], str]:
    """The detokenizer called `name`.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in _DETOKENIZERS:
        raise unknown("detokenizer", name, _DETOKENIZERS)
    return _DETOKENIZERS[name]
