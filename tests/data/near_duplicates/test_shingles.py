"""Shingles of blocks and exact Jaccard indices, against sets of strings."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcc.data.near_duplicates import shingles
from mcc.data.near_duplicates.shingles import Comparer, jaccard, packed_bytes, windows

TEXTS = st.text("ab\0é日🦊", max_size=30)


def plain(text: str, chars: int) -> set[str]:
    return {text[i : i + chars] for i in range(max(len(text) - chars, 0) + 1)}


def truth(left: str, right: str, chars: int = 5) -> float:
    if left == right:
        return 1.0
    if not left or not right:
        return 0.0
    one, other = plain(left, chars), plain(right, chars)
    return len(one & other) / len(one | other)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TEXTS, TEXTS, st.integers(1, 9))
def test_jaccard_is_exact(monkeypatch: pytest.MonkeyPatch, left: str, right: str, chars: int) -> None:
    expected = truth(left, right, chars)
    assert jaccard(left, right, chars) == expected
    comparer = Comparer(chars)
    monkeypatch.setattr(shingles, "_SHORT", 0)
    # Twice: what the first comparison left in the tables does not matter.
    assert comparer.jaccard(left, right) == comparer.jaccard(right, left) == expected


@settings(max_examples=50, deadline=None)
@given(st.text("abc", min_size=5, max_size=200), st.text("abc", min_size=5, max_size=200), st.sampled_from([3, 6, 12]))
def test_crowded_tables_and_several_turns(left: str, right: str, bits: int) -> None:
    """Also where most values drive each other out of their slots."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shingles, "_TABLE_BITS", (bits, bits))
        patch.setattr(shingles, "_COUNTED", 50)
        patch.setattr(shingles, "_SHORT", 0)
        comparer = Comparer(5)
        for ending in ("", "é"):
            expected = truth(left + ending, right + ending)
            assert comparer.jaccard(left + ending, right + ending) == expected


def test_more_characters_than_can_be_packed() -> None:
    comparer = Comparer(5)
    for start in (0x4E00, 0x5E00, 0x6E00):
        left, right = ("".join(map(chr, range(start + shift, start + shift + 3000))) for shift in (0, 100))
        assert comparer.jaccard(left, right) == truth(left, right)
    assert comparer._used < 4096


@settings(max_examples=100, deadline=None)
@given(st.lists(TEXTS, max_size=8), st.integers(1, 10))
def test_windows_are_the_shingles(texts: list[str], chars: int) -> None:
    """The same shingle has the same number in every text, different ones have different numbers."""
    found: list[set[int]] = [set() for _ in texts]
    for hashes, rows in windows(texts, chars):
        assert len(hashes) == len(rows)
        for number, row in zip(hashes.tolist(), rows.tolist(), strict=True):
            if row < len(texts):
                found[row].add(number)
    names: dict[str, int] = {}
    for text, numbers in zip(texts, found, strict=True):
        # A short text is filled up with something that is no character, so it differs from every longer one.
        expected = {piece.ljust(chars, "\uffff") for piece in plain(text, chars)}
        assert len(numbers) == len(expected)
        if len(expected) == 1:
            (piece,), (number,) = expected, numbers
            assert names.setdefault(piece, number) == number
    assert len(set(names.values())) == len(names)


@pytest.mark.parametrize("extra", [0, 1, 5, 77])
def test_long_texts_in_pieces(monkeypatch: pytest.MonkeyPatch, extra: int) -> None:
    monkeypatch.setattr(shingles, "PIECE_CHARS", 16)
    rng = np.random.default_rng(extra)
    for letters in ("abcdef", "abé日"):
        text = "".join(rng.choice(list(letters), 100 + extra))
        seen = {number for hashes, rows in windows(["x" * 20, text], 5) for number in hashes[rows == 1].tolist()}
        assert len(seen) == len(plain(text, 5))
        assert Comparer(5).jaccard(text, text[:-9]) == truth(text, text[:-9])


def test_packed_bytes() -> None:
    assert packed_bytes("abcabc", 3).tolist() == [0x636261, 0x616362, 0x626163, 0x636261]
    assert packed_bytes("abcdefgh", 8).tolist() == [0x6867666564636261]
