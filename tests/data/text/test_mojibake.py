"""The fast fixer gives what ftfy gives: for every character, any text, every combination of options."""

from __future__ import annotations

import hashlib
import random
import re
import sys
from collections.abc import Iterable
from functools import cache
from typing import Any

import ftfy
import pytest
from ftfy import badness, fixes
from hypothesis import given, settings
from hypothesis import strategies as st

from mcc.data.text import mojibake
from mcc.data.text.mojibake import FastFixer

if sys.version_info >= (3, 11):
    from re import _constants as sre
    from re import _parser as parser
else:
    import sre_constants as sre
    import sre_parse as parser

FLAGS = [
    name for name, default in ftfy.TextFixerConfig._field_defaults.items() if default is True and name != "explain"
]
PIECES = [
    *[
        "a",
        "B",
        " ",
        "  ",
        "\n",
        "\r\n",
        "\r",
        "\t",
        "\x00",
        "\x0b",
        "\x0c",
        "\x1b[31m",
        "\x1b",
        "\x7f",
        "\x85",
        "\x91",
    ],
    *["&", "&amp;", "&lt;", "&#38;", "&#x26;lt;", "&EACUTE;", "&nosuch;", "＆amp;", "&am\x01p;", "<", "<b>", "AT&T"],
    *["“", "”", "‘", "’", "…", "—", "–", "„", "«", "»", "•", "ʼ", "ﬁ", "ŉ", "Ｌ", "　", "ﾀ", "ﾞ", "\ufeff", "\ufffc"],
    *["é", "e\u0301", "\u0301", "Å", "Å", "ß", "œ", "Œ", "ü", "ł", "Ç", "à", "Ã", "Â", "Ã ", "Â ", "Ã\xa0", "°", "¿"],
    *["Ã©", "â€œ", "â€\x9d", "â€™", "Ã¼ber", "schÃ¶n", "Ð¿Ñ€", "вЂ", "С»Р", "ГўВЂВ™", "‚Ä", "‚ó°", "ā€", "Ø²Ù®", "β€™"],
    *["\u2028", "\u2029", "\u206a", "\u200b", "日本", "한", "пр", "ΒΓ", "²", "€", "¶", "│", "�", "â€�", "\U0001f600"],
    *["\ud83d\ude00", "\ud800", "\udc00", "fÃ cil", "voilÃ le", "×²"],
]
TEXTS = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=14).map("".join),
    st.text(max_size=40),
    st.text(alphabet=st.characters(max_codepoint=0x17F), max_size=40),
    st.text(max_size=30).map(lambda text: text.encode(errors="ignore").decode("latin-1")),
    st.text(max_size=30).map(lambda text: text.encode(errors="ignore").decode("cp1252", errors="replace")),
)


@cache
def fixer(config: ftfy.TextFixerConfig) -> FastFixer:
    return FastFixer(config)


def same(text: str, config: ftfy.TextFixerConfig) -> None:
    assert fixer(config).fix(text) == ftfy.fix_text(text, config), (text, config)


@settings(max_examples=1500, deadline=None)
@given(text=TEXTS)
def test_as_ftfy(text: str) -> None:
    assert fixer(ftfy.TextFixerConfig()).fix(text) == ftfy.fix_text(text)


@pytest.mark.parametrize("seed", range(40))
def test_as_ftfy_with_any_options(seed: int) -> None:
    """Few configurations, many texts each: a fixer is dear to make."""
    generator = random.Random(seed)
    config = ftfy.TextFixerConfig(
        **{name: generator.random() < 0.7 for name in FLAGS},
        unescape_html=generator.choice(["auto", True, False]),
        normalization=generator.choice(["NFC", "NFD", "NFKC", "NFKD", None]),
        max_decode_length=generator.choice([1_000_000, 1_000_000, 7, 1]),
    )
    for _ in range(150):
        same("".join(generator.choices(PIECES, k=generator.randrange(12))), config)


@pytest.mark.parametrize("name", FLAGS)
def test_every_option_matters_and_is_ftfys(name: str) -> None:
    config = ftfy.TextFixerConfig(**{name: False})
    for piece in PIECES:
        same(piece, config)
        same(f"The {piece} end “x” {piece}\n{piece}", config)


def test_every_character() -> None:
    """Alone, and with the characters that change next to it."""
    every = [chr(code) for code in range(0x110000)]
    table = mojibake._table(ftfy.TextFixerConfig(fix_encoding=False))
    for name in mojibake._SINGLE:
        fix: Any = getattr(fixes, name)
        text = "".join(every[:0xD800] + every[0xE000:])
        changed = fix(text) != text and {character for character in text if fix(character) != character}
        assert {ord(character) for character in changed or ()} <= {*table, ord("\r"), 0x1B}
    for code in {*table, *range(0x250), *range(0x2000, 0x2070), *range(0xFB00, 0xFB07), 0x1F600}:
        same(chr(code), ftfy.TextFixerConfig())
        same(f"a{chr(code)}b “ {chr(code)}", ftfy.TextFixerConfig())


def test_html_is_carried_from_line_to_line() -> None:
    assert FastFixer().fix("&amp;\n<p>\n&amp;") == ftfy.fix_text("&amp;\n<p>\n&amp;") == "&\n<p>\n&amp;"
    assert FastFixer().fix("a < b\n\n“&amp;”") == 'a < b\n\n"&amp;"'


def test_lines_longer_than_ftfy_looks_at() -> None:
    text = "x" * 999_999 + "\r\n" + "“é”" * 400_000 + "&amp;"
    assert FastFixer().fix(text) == ftfy.fix_text(text)


def needed(pattern: Iterable[Any]) -> list[set[int]]:
    """Sets of characters (code points), one of each of which any match of a sequence has."""
    found: list[set[int]] = []
    for operation, argument in pattern:
        if operation is sre.LITERAL:
            found.append({argument})
        elif operation is sre.IN:
            found.append(members(argument))
        elif operation is sre.SUBPATTERN:
            found += needed(argument[-1])
        elif operation is sre.BRANCH:
            raise AssertionError("alternatives are taken apart by `alternatives`")
    return found


def members(items: list[Any]) -> set[int]:
    found: set[int] = set()
    for operation, argument in items:
        if operation is sre.LITERAL:
            found.add(argument)
        elif operation is sre.RANGE:
            found |= set(range(argument[0], argument[1] + 1))
        else:  # a class, or the complement of one: it may match anything
            return set(range(0x110000))
    return found


def alternatives(pattern: list[Any]) -> list[list[Any]]:
    """Every way through the branches of a pattern."""
    ways: list[list[Any]] = [[]]
    for item in pattern:
        if item[0] is sre.BRANCH:
            inner = [way for branch in item[1][1] for way in alternatives(list(branch))]
        elif item[0] is sre.SUBPATTERN:
            inner = alternatives(list(item[1][-1]))
        else:
            inner = [[item]]
        ways = [way + tail for way in ways for tail in inner]
    return ways


def test_mojibake_needs_a_suspect() -> None:
    """Walks ftfy's pattern: every alternative has a place where only suspects stand, for both sets."""
    pattern = badness.BADNESS_RE
    assert hashlib.sha256(pattern.pattern.encode()).hexdigest().startswith(mojibake._KNOWN_PATTERN), (
        "another version of ftfy: look at _suspects again, then change _KNOWN_PATTERN"
    )
    ways = alternatives(list(parser.parse(pattern.pattern, pattern.flags)))
    assert len(ways) > 30
    every = "".join(map(chr, (*range(0xD800), *range(0xE000, 0x110000))))
    for chars in mojibake._suspects():
        suspects = set(map(ord, re.findall(f"[{chars}]", every)))
        for way in ways:
            assert any(place <= suspects for place in needed(way)), way


def test_without_the_known_pattern_ftfy_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mojibake, "_KNOWN_PATTERN", "another")
    unknowing = FastFixer()
    assert unknowing._suspects == ()
    for piece in PIECES:
        assert unknowing.fix(f"a {piece}\nb") == ftfy.fix_text(f"a {piece}\nb")
