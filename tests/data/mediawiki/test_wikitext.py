"""Markup to text: what goes, what stays, and that nothing of the machinery is left."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mcc.data.mediawiki.wikitext import WikitextConfig, clean

MARKUP = ("{{", "}}", "{|", "|}", "[[", "]]", "<ref", "<!--", "'''", "</")


@pytest.mark.parametrize(
    ("wikitext", "text"),
    [
        ("'''Bold''' and ''it''.", "Bold and it."),
        ("a [[b]] [[c|d]] [[e (f)|]] [[g]]s", "a b d e gs"),
        ("a [[File:x.png|thumb|A [[link]] in a caption]]b", "a b"),
        ("a [[Category:X]]b [[:Category:Y]] [[fr:Z]]", "a b Category:Y"),
        ("a [[wikt:word]] [[wikt:word|shown]]", "a word shown"),
        ("a {{cite|title={{inner|x}}|y}}b", "a b"),
        ("a{{ref|\n* x\n|}} b", "a b"),
        ("{| class=x\n! h\n|-\n| c {{t}}\n{| inner\n| d\n|}\n|}\nafter", "after"),
        ("a<ref>x</ref> b<ref name=q /> c<ref name='r'>{{cite\n|y}}</ref>.", "a b c."),
        ("a<!-- x\n\ny -->b", "ab"),
        ("a <math>x^2</math> b", "a b"),
        ("<gallery>\nFile:a.png|b\n</gallery>\ntext", "text"),
        ("H<sub>2</sub>O, x<sup>2</sup> &amp; 1&nbsp;km", "H2O, x2 & 1 km"),
        ("one<br />two", "one\ntwo"),
        ("see [http://x.org the site] and [http://y.org]", "see the site and"),
        ("* one\n** two\n# three\n: four\n; five", "- one\n- two\n- three\nfour\nfive"),
        ("== H ==\ntext\n=== Empty ===\n== Also empty ==\n", "H\n\ntext"),
        ("== A ==\n=== B ===\ntext", "A\n\nB\n\ntext"),
        ("a ({{lang|grc|ἀ}}; {{IPA|x}}) b", "a (ἀ;) b"),
        ("a ({{IPA|x}}, {{y}}) b", "a b"),
        ("{{convert|3|km|mi}} {{convert|1|to|2|ft|abbr=on}} {{nowrap|4 {{x}}5}}", "3 km 1 to 2 ft 4 5"),
        ("{{columns-list|colwidth=9em|\n* one\n* [[two]]\n}}", "- one\n- two"),
        ("<nowiki>[[x]] {{y}}</nowiki>", "x y"),
        ("__TOC__ a\n----\nb", "a\n\nb"),
        ("a\n\n\n\nb", "a\n\nb"),
        # What authors get wrong: no end, a stray end, an end in the wrong place.
        ("a [[b\n\nc", "a b\n\nc"),
        ("a {{b\nc\n\nd", "a d"),
        ("a }} b ]] c |} d", "a b c |} d".replace(" |}", "")),
        ("{{a [[b}} c]] d", "c d"),
        ("a <ref>b\n\nc", "a\n\nc"),
    ],
)
def test_cases(wikitext: str, text: str) -> None:
    assert clean(wikitext) == text


def test_options() -> None:
    text = "== H ==\nwords\n* item"
    assert clean(text, WikitextConfig(lists=False)) == "H\n\nwords"
    assert clean(text, WikitextConfig(headings="drop")) == "words\n- item"


def test_names_of_another_language() -> None:
    assert clean("a [[Datei:x.png|b]]c [[Kategorie:d]]e", files={"datei"}, categories={"kategorie"}) == "a c e"


PIECES = [
    "{{",
    "}}",
    "[[",
    "]]",
    "{|",
    "|}",
    "\n",
    "\n\n",
    "|",
    "=",
    "==",
    "<ref>",
    "</ref>",
    "<ref",
    "/>",
    "<!--",
    "-->",
]
PIECES += [
    "a",
    "b c",
    " ",
    "''",
    "'''''",
    "File:",
    "Category:",
    "<nowiki>",
    "</nowiki>",
    "&lt;ref&gt;",
    "*",
    ":",
    "{",
    "}",
]


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
@example("{{{{{|[[[<ref<ref>>")
@example("{<nowiki/>{a}<nowiki/>}")
def test_no_machinery_is_left_of_any_markup(wikitext: str) -> None:
    text = clean(wikitext)
    assert not [mark for mark in ("{{", "{|", "<ref", "[[", "]]", "}}") if mark in text.lower()]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["word", "Other", "x y."]), min_size=1, max_size=20), st.data())
def test_prose_is_untouched(words: list[str], data: st.DataObject) -> None:
    lines = [" ".join(words), "and a second line"]
    assert clean("\n\n".join(lines)) == "\n\n".join(lines)


MARKS = [*PIECES, "[[File:", "[[a|", "{{convert|", "{{lang|en|", "[http://x", "[", "]", "<math>", "<gallery>", "<br>"]
MARKS += [
    "(",
    ")",
    ",",
    "(,",
    ".",
    "__TOC__",
    "&amp;",
    "\u3000",
    "\t",
    "\n----",
    "<",
    "&#91;&#91;",
    "&#123;",
    "~~~~",
    "x",
]


@pytest.mark.parametrize("piece", MARKS)
def test_time_grows_with_the_length_only(piece: str) -> None:
    """20,000 of a mark, alone and behind others: a square of the length would take many seconds."""
    started = time.process_time()
    for text in (piece * 20_000, *(other + piece * 500 + "=\n" + other for other in MARKS)):
        assert not [mark for mark in ("{{", "{|", "<ref", "[[", "]]", "}}") if mark in clean(text).lower()]
    assert time.process_time() - started < 2.5


def test_long_unbalanced_pieces_are_quick() -> None:
    """Time grows with the length of the text, not with its square: 20,000 of each mark take well below a second."""
    pieces = ["{{a|", "[[b|", "{|\n", "{{a}} [[", "<ref>", "(((", "'" * 50 + " ", "[http://x ", "<nowiki>", " ", "( , "]
    pieces += ["<!--", "</ref>", "= ", "{{", "[[", "{{a}}]]", "{|\n}}", "<ref", "\n", ",\n"]
    for piece in pieces:
        started = time.process_time()
        clean(piece * 20_000)
        assert time.process_time() - started < 3, piece
    for text in ("[[a" + " " * 50_000 + "|]]", "=a" + "\u3000" * 50_000 + "b", "[http://" + "x" * 50_000):
        started = time.process_time()
        clean(text)
        assert time.process_time() - started < 1, text[:9]


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=300) | st.lists(st.sampled_from(MARKS) | st.text(max_size=5), max_size=60).map("".join))
def test_any_text_at_all(text: str) -> None:
    """It never raises, and no mark is left."""
    for config in (WikitextConfig(), WikitextConfig(lists=False, headings="drop")):
        found = clean(text, config)
        assert not [mark for mark in ("{{", "{|", "<ref", "[[", "]]", "}}") if mark in found.lower()]
