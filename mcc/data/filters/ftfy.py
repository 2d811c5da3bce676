"""The filter `ftfy`: mends text that was decoded wrongly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mcc.core.config import option
from mcc.data.filtering import Filter


@dataclass(frozen=True, kw_only=True)
class FtfyOptions:
    """What is mended besides mojibake."""

    normalization: Literal["NFC", "NFKC", "NFD", "NFKD", "none"] = option("NFC", "Unicode normal form")
    uncurl_quotes: bool = option(True, "turn curly quotes into straight ones")


class Ftfy(Filter[FtfyOptions]):
    """Mend mojibake, HTML entities, control characters and curly quotes with ftfy's fix_text.

    >>> Ftfy().keep("schÃ¶n")
    'schön'
    """

    Options = FtfyOptions

    def __init__(self, options: FtfyOptions | None = None) -> None:
        super().__init__(options)
        from ftfy import TextFixerConfig, fix_text

        form = None if self.options.normalization == "none" else self.options.normalization
        self._config = TextFixerConfig(normalization=form, uncurl_quotes=self.options.uncurl_quotes)
        self._fix = fix_text

    def keep(self, text: str) -> str:
        """The mended text."""
        fixed: str = self._fix(text, self._config)
        return fixed
