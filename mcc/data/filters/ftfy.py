"""The filter `ftfy`: mends text that was decoded wrongly."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from mcc.core.config import option
from mcc.core.errors import UsageError
from mcc.data.filtering import Filter


@dataclass(frozen=True, kw_only=True)
class FtfyOptions:
    """What is mended; the names and the defaults are ftfy's.

    Raises:
        UsageError: `max_decode_length` is not positive.
    """

    unescape_html: Literal["auto", "yes", "no"] = option("auto", "HTML entities; auto: up to the first line with `<`")
    remove_terminal_escapes: bool = option(True, "drop the colours of terminals")
    fix_encoding: bool = option(True, "mend mojibake; the next four options are about how")
    restore_byte_a0: bool = option(True, "take a space for a no-break space where that makes sense of mojibake")
    replace_lossy_sequences: bool = option(True, "mend around characters that are lost")
    decode_inconsistent_utf8: bool = option(True, "mend mojibake amid good text")
    fix_c1_controls: bool = option(True, "take control characters of Latin-1 for Windows-1252")
    fix_latin_ligatures: bool = option(True, "write ligatures as letters")
    fix_character_width: bool = option(True, "make full-width Latin and half-width Katakana normal")
    uncurl_quotes: bool = option(True, "turn curly quotes into straight ones")
    fix_line_breaks: bool = option(True, "make every line break a newline")
    fix_surrogates: bool = option(True, "put pairs of surrogates together")
    remove_control_chars: bool = option(True, "drop control characters")
    normalization: Literal["NFC", "NFKC", "NFD", "NFKD", "none"] = option("NFC", "Unicode normal form")
    max_decode_length: int = option(1_000_000, "characters of a line that are looked at together")

    def __post_init__(self) -> None:
        if self.max_decode_length < 1:
            raise UsageError(f"ftfy: max_decode_length = {self.max_decode_length} must be at least 1")


class Ftfy(Filter[FtfyOptions]):
    """Mend mojibake, HTML entities, control characters and curly quotes exactly as ftfy's fix_text does.

    >>> Ftfy().keep("schÃ¶n")
    'schön'
    """

    Options = FtfyOptions

    def __init__(self, options: FtfyOptions | None = None) -> None:
        super().__init__(options)
        from ftfy import TextFixerConfig

        from mcc.data.text.mojibake import FastFixer

        values = asdict(self.options)
        values["unescape_html"] = {"auto": "auto", "yes": True, "no": False}[self.options.unescape_html]
        values["normalization"] = None if self.options.normalization == "none" else self.options.normalization
        self._fixer = FastFixer(TextFixerConfig(**values))

    def keep(self, text: str) -> str:
        """The mended text."""
        return self._fixer.fix(text)
