"""Plain text cut into documents, and paragraphs packed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mcc.data.base.plaintext import pack, split_documents


def split(text: str) -> list[str]:
    return [document for _, document in split_documents(enumerate(text.split("\n"), 1))]


def test_marks() -> None:
    assert split("a\n<|endoftext|>\nb\n\n\nc\n\x0cd\n\x0c\ne") == ["a", "b", "c", "d", "e"]
    assert split(" = Title = \n\n text\n\n = = Part = = \n\n more\n\n = Other = \n\n x") == [
        "= Title =\n\n text\n\n = = Part = =\n\n more",
        "= Other =\n\n x",
    ]


def test_lines_are_counted_from_the_first_of_the_document() -> None:
    assert [number for number, _ in split_documents(enumerate(["", "a", "", "", "", "b"], 1))] == [2, 6]


def test_long_text_without_marks_is_cut_at_blank_lines() -> None:
    paragraph = "word " * 100
    found = split("\n\n".join([paragraph] * 40))
    assert len(found) == 10 and all(2000 <= len(text) < 3100 for text in found)


def test_nothing() -> None:
    assert split("") == split("\n\n \n\n\n") == split("<|endoftext|>\n<|endoftext|>") == []


@given(st.lists(st.sampled_from(["word", "two words", "", "", "<|endoftext|>", "\x0c", " = T = "]), max_size=40))
def test_no_word_is_lost(lines: list[str]) -> None:
    found = " ".join(split("\n".join(lines))).split()
    assert found == " ".join(line for line in lines if line not in ("<|endoftext|>", "\x0c")).split()


@given(st.lists(st.text("ab", min_size=1, max_size=12), max_size=30), st.integers(1, 10), st.integers(10, 40))
def test_pack_keeps_order_and_bounds(paragraphs: list[str], low: int, high: int) -> None:
    packed = list(pack(paragraphs, low, high))
    assert "\n\n".join(packed).split("\n\n") == (paragraphs or [""])
    # A paragraph is never cut, and the last text may take up what alone would be too short.
    bound = max([high, *map(len, paragraphs)])
    assert all(len(text) <= bound for text in packed[:-1]) and len(packed[-1:] and packed[-1]) <= bound + low + 2
