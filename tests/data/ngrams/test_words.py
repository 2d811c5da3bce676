"""Words found with numpy are the words that `re` finds."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from mcc.data.ngrams.words import find_words, lower, split_words

# Letters, digits, joiners and punctuation of one to four bytes, and letters whose lower case is of another size.
CHARS = st.sampled_from(
    list(
        "aZ_9 .,\n\x00\u00e9\u00b5\u00ab\u2019\u2014\u0130\u212a\u1e9e\u03a3\u4e2d\u3002"
        "\u0663\U0001d7d9\U0001f600\u0301\u200d"
    )
)
TEXTS = st.lists(st.one_of(st.text(CHARS, max_size=40), st.text(max_size=20)), max_size=6)


def encodable(text: str) -> str:
    return text.encode(errors="ignore").decode()


@settings(max_examples=500, deadline=None)
@given(TEXTS)
def test_equals_re(texts: list[str]) -> None:
    texts = [encodable(text) for text in texts]
    words = split_words(texts)
    for i, text in enumerate(texts):
        mine = words.of(i)
        found = [words.encoded[a:b].decode() for a, b in zip(words.starts[mine], words.ends[mine], strict=True)]
        assert found == find_words(text)
        places = [(match.start(), match.end()) for match in re.finditer(r"\w+", lower(text))]
        assert list(zip(*words.characters(i), strict=True)) == places


def test_every_character() -> None:
    """All code points, each between two spaces."""
    text = " ".join(chr(point) for point in range(0x110000) if not 0xD800 <= point < 0xE000)
    words = split_words([text])
    assert [words.encoded[a:b].decode() for a, b in zip(words.starts, words.ends, strict=True)] == find_words(text)


@given(st.lists(st.text(alphabet="abcdef\u00e9", min_size=1, max_size=20), min_size=2, max_size=10))
def test_equal_words_have_equal_numbers(words: list[str]) -> None:
    values = split_words([" ".join(words)]).values.tolist()
    for one, a in zip(words, values, strict=True):
        for other, b in zip(words, values, strict=True):
            if one == other:
                assert a == b
            elif one.encode()[:8] != other.encode()[:8]:
                assert a != b
