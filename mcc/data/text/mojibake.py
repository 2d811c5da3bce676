"""`ftfy.fix_text` with the same result, several times as fast on text that has little to mend.

ftfy (Speer 2019) sends every line through a dozen regular expressions until nothing changes. Here a text or a line
takes that way only when it can matter: ASCII without `&` and control characters is left alone, and a line that cannot
be mojibake gets its single characters replaced by one table, which is made by asking ftfy itself.
"""

from __future__ import annotations

import hashlib
import re
import sys
import unicodedata
from collections.abc import Mapping
from typing import Any

import ftfy
from ftfy import badness, fixes

# The fixers that look at one character at a time, in ftfy's order. The others see several: entities, encodings, \r\n,
# terminal escapes, pairs of surrogates.
_SINGLE = (
    "fix_c1_controls",
    "fix_latin_ligatures",
    "fix_character_width",
    "uncurl_quotes",
    "fix_line_breaks",
    "remove_control_chars",
)
# Text with these goes to ftfy.
_SEVERAL = "\x1b\ud800-\udfff"
_CONTROL = "\x00-\x08\x0b\x0d-\x1f\x7f"
# ftfy's pattern of mojibake that `_suspects` was derived from. Another one is asked about every line.
_KNOWN_PATTERN = "9dcc0f2ac90d9ae3"


def _suspects() -> tuple[str, ...]:
    """Two sets of characters, as inside of `[...]`: text without any of the first, or of the second, is no mojibake.

    Every alternative of ftfy's pattern needs a character of each set (a test walks the pattern).
    """
    kinds = badness.MOJIBAKE_CATEGORIES
    always = "".join(kinds[kind] for kind in ("c1", "bad", "law", "currency", "numeric", "box", "upper_accented"))
    always += "œØÙЂ°"
    return (
        always + kinds["lower_accented"] + "ВГРСΒΓΞΟ",
        always + kinds["start_punctuation"] + kinds["end_punctuation"],
    )


class FastFixer:
    """`fix(text)` is `ftfy.fix_text(text, config)`.

    Args:
        config: ftfy's, of which `explain` does not matter.
    """

    def __init__(self, config: ftfy.TextFixerConfig | None = None) -> None:
        config = config or ftfy.TextFixerConfig()
        # Explaining costs time, but without it ftfy forgets the four options of its decoder.
        self._explained = not (
            config.restore_byte_a0
            and config.replace_lossy_sequences
            and config.decode_inconsistent_utf8
            and config.fix_c1_controls
        )
        self._config = config._replace(explain=self._explained)
        self._literal = self._config._replace(unescape_html=False)
        self._table = _table(config)
        changing = "".join(map(re.escape, map(chr, self._table))) or "(?!)"
        self._changing = re.compile(f"[{changing}]" if self._table else changing)
        self._trigger = re.compile(f"[&{_CONTROL}\x80-{chr(sys.maxunicode)}]")
        self._ascii_trigger = re.compile(f"[&{_CONTROL}]")
        self._several = re.compile(f"[{_SEVERAL}]")
        known = hashlib.sha256(badness.BADNESS_RE.pattern.encode()).hexdigest().startswith(_KNOWN_PATTERN)
        self._suspects = tuple(re.compile(f"[{chars}]") for chars in _suspects()) if known else ()

    def fix(self, text: str) -> str:
        """The mended text."""
        if text.isascii() and not self._ascii_trigger.search(text):
            return text
        if len(text) <= self._config.max_decode_length and "&" not in text:
            # Without entities and mojibake it does not matter where lines end: all at once.
            fixed = self._calm(text, whole=True)
            if fixed is not None:
                return fixed
        return self._by_line(text)

    def _by_line(self, text: str) -> str:
        longest = self._config.max_decode_length
        # From the line with the first `<` on, entities are taken for HTML that is meant.
        html = text.find("<") if self._config.unescape_html == "auto" else -1
        done: list[str] = []
        end = 0
        while found := self._trigger.search(text, end):
            start = text.rfind("\n", end, found.start()) + 1 or end
            done.append(text[end:start])
            end = text.find("\n", start) + 1 or len(text)
            for at in range(start, end, longest):
                piece = text[at : min(at + longest, end)]
                config = self._literal if 0 <= html < at + len(piece) else self._config
                fixed = self._calm(piece, unescape=bool(config.unescape_html))
                done.append(ftfy.fix_and_explain(piece, config).text if fixed is None else fixed)
        done.append(text[end:])
        return "".join(done)

    def _calm(self, text: str, *, whole: bool = False, unescape: bool = False) -> str | None:
        """The text mended without ftfy's decoder, or None when that may not be enough. `whole`: it has many lines."""
        form = self._config.normalization
        while True:
            before = text
            if "&" in text:
                if whole:  # made of `＆`: whether it begins an entity depends on the lines before
                    return None
                if unescape:
                    text = fixes.unescape_html(text)
            if self._several.search(text) or (self._config.fix_encoding and self._suspicious(text, whole)):
                return None
            if self._config.fix_line_breaks and "\r" in text:
                text = text.replace("\r\n", "\n").replace("\r", "\n")
            if self._changing.search(text):
                text = text.translate(self._table)
            if form is not None and not unicodedata.is_normalized(form, text):
                text = unicodedata.normalize(form, text)
            if text == before:
                return text

    def _suspicious(self, text: str, whole: bool) -> bool:
        if text.isascii() or any(not chars.search(text) for chars in self._suspects):
            return False
        # ftfy's pattern knows the beginning of a line as the beginning of the text.
        return whole or bool(badness.is_bad(text))


def _table(config: ftfy.TextFixerConfig) -> Mapping[int, str]:
    """What the enabled fixers make of each character that they change."""
    fixers = [getattr(fixes, name) for name in _SINGLE if getattr(config, name)]
    table = {}
    for code in _changed_codes():
        character = fixed = chr(code)
        for fixer in fixers:
            fixed = fixer(fixed)
        if fixed != character:
            table[code] = fixed
    return table


def _changed_codes() -> list[int]:
    # ftfy changes none beyond these (a test asks it about every character there is).
    every = "".join(map(chr, (*range(0xD800), *range(0xE000, 0x10000))))
    found: set[int] = set()
    for name in _SINGLE:
        fixer: Any = getattr(fixes, name)
        found |= _differences(every, fixer)
    return sorted(found - {ord("\r"), 0x1B})  # these are looked for apart


def _differences(text: str, fixer: Any) -> set[int]:
    """Characters that a fixer changes, by halving: most of Unicode is left alone."""
    if fixer(text) == text:
        return set()
    if len(text) == 1:
        return {ord(text)}
    middle = len(text) // 2
    return _differences(text[:middle], fixer) | _differences(text[middle:], fixer)
