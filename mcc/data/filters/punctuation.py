"""The filter `punctuation`: makes punctuation uniform."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mcc.core.config import option
from mcc.data.filtering import Filter
from mcc.data.text.long_texts import no_time_limit

_ASCII = str.maketrans(
    {
        **dict.fromkeys("‘’‚‛′`´", "'"),
        **dict.fromkeys("“”„‟″«»", '"'),
        **dict.fromkeys("‐‑‒−", "-"),
        **dict.fromkeys("–—―", "--"),
        "…": "...",
        "•": "-",
        "⁄": "/",
    }
)
# Text that went through a tokenizer has spaces where nobody types them.
_APART = re.compile(r"\w [,.;:!?](?:\s|$)|\w '(?:s|re|ve|ll|d|m|t)\b|\w n't\b|`` | ''|@[-,.]@")
_JOINERS = re.compile(r" ?@([-,.])@ ?")


@dataclass(frozen=True, kw_only=True)
class PunctuationOptions:
    """What is made uniform."""

    ascii: bool = option(True, "turn typographic quotes, dashes and ellipses into ASCII")
    detokenize: bool = option(True, "close the spaces that a tokenizer left, with NLTK's Treebank detokenizer")


class Punctuation(Filter[PunctuationOptions]):
    """Make quotes and dashes ASCII, and join punctuation that a tokenizer set apart, with NLTK.

    >>> Punctuation().keep("“Well…” , he said ; 1 @,@ 000 ( more ) .")
    '"Well...", he said; 1,000 (more).'
    """

    Options = PunctuationOptions

    def __init__(self, options: PunctuationOptions | None = None) -> None:
        super().__init__(options)
        if self.options.detokenize:
            from nltk.tokenize.treebank import TreebankWordDetokenizer

            no_time_limit()
            self._detokenizer = TreebankWordDetokenizer()

    def keep(self, text: str) -> str:
        """The text with uniform punctuation."""
        if self.options.ascii and not text.isascii():
            text = text.translate(_ASCII)
        if self.options.detokenize and _APART.search(text):
            # Line by line, and only where needed: the detokenizer does not keep white space.
            text = "\n".join(self._join(line) if _APART.search(line) else line for line in text.split("\n"))
        return text

    def _join(self, line: str) -> str:
        indent = line[: len(line) - len(line.lstrip())]
        joined: str = self._detokenizer.detokenize(_JOINERS.sub(r"\1", line).split())
        return indent + joined
