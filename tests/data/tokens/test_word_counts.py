"""Counting words in bounded memory."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from mcc.data.tokens.word_counts import WordCounts


@settings(max_examples=50, deadline=None)
@given(words=st.lists(st.sampled_from(["a", "b", "\ud800", "日", " d"])))
def test_exact_while_they_fit(words: list[str]) -> None:
    counts = WordCounts(10)
    counts.add(words)
    found = list(counts.items())
    assert dict(found) == Counter(words) and found == sorted(found, key=lambda pair: (-pair[1], pair[0]))
    elsewhere = WordCounts(10)
    for some in (words[:7], words[7:]):
        elsewhere.add_counts(Counter(some))
    assert list(elsewhere.items()) == found


def test_frequent_words_are_counted_and_rare_ones_keep_their_weight() -> None:
    generator = random.Random(1)
    frequent = [f"word{i}" for i in range(200)]
    counts = WordCounts(2000)
    total = 0
    for block in range(200):
        words = [*frequent * 2, *(f"rare{block}-{generator.random()}" for _ in range(500))]
        counts.add(words)
        total += len(words)
        assert len(counts) <= 2000
    found = dict(counts.items())
    assert all(found[word] == 400 for word in frequent)
    rare = sum(n for word, n in found.items() if word.startswith("rare"))
    assert 0.8 * 100_000 < rare < 1.25 * 100_000
    assert sum(1 for word in found if word.startswith("rare")) > 300


def test_the_same_words_give_the_same_counts() -> None:
    def counted() -> list[tuple[str, int]]:
        counts = WordCounts(50)
        for i in range(400):
            counts.add([f"{i % 30}", f"{i}-{i * i}"])
        return list(counts.items())

    assert counted() == counted()
