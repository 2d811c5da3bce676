"""Shingles of blocks and exact Jaccard indices, against sets of strings."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcc.data import shingles
from mcc.data.shingles import Comparer, jaccard, packed_bytes, windows

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


@settings(max_examples=200, deadline=None)
@given(TEXTS, TEXTS, st.integers(1, 9))
def test_jaccard_is_exact(left: str, right: str, chars: int) -> None:
    expected = truth(left, right, chars)
    assert jaccard(left, right, chars) == expected
    comparer = Comparer(chars)
    for as_bytes in (False, True):
        if as_bytes and not (comparer.fits_bytes(left) and comparer.fits_bytes(right)):
            continue
        one, other = comparer.shingles(left, as_bytes), comparer.shingles(right, as_bytes)
        if one is not None and other is not None:
            assert len(one) == len(plain(left, chars)) and comparer.of_sets(one, other) == expected


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 2000), unique=True), st.lists(st.integers(0, 2000), unique=True), st.booleans())
def test_sets_that_fill_their_table(left: list[int], right: list[int], crowded: bool) -> None:
    """Also where most values drive each other out of their slots."""
    comparer = Comparer(5)
    if crowded:
        comparer._tables = {bits: np.zeros(1 << 3, dtype=np.uint32) for bits in range(30)}
        comparer._table = lambda entries: (comparer._tables[3], np.uint64(61))  # type: ignore[method-assign]
    one, other = (np.array(values, dtype=np.uint64) for values in (left, right))
    union = len(set(left) | set(right))
    if union:
        assert comparer.of_sets(one, other) == len(set(left) & set(right)) / union
        both = np.concatenate((one, other))
        if len(both):
            assert sorted(comparer._distinct(both).tolist()) == sorted(set(left) | set(right))


def test_a_comparer_forgets_the_pair_before() -> None:
    comparer = Comparer(5)
    one = np.arange(100, dtype=np.uint64)
    assert comparer.of_sets(one, one) == 1.0
    assert comparer.of_sets(one + np.uint64(1000), one) == 0.0
    assert comparer.of_sets(one[:50], one) == 0.5


def test_more_characters_than_can_be_packed() -> None:
    comparer = Comparer(5)
    assert comparer.shingles("".join(map(chr, range(0x4E00, 0x4E00 + 4095))), False) is not None
    assert comparer.shingles("".join(map(chr, range(0x5E00, 0x5E10))), False) is None
    assert comparer.shingles("丁" * 9, False) is not None


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
        found = Comparer(5).shingles(text, letters.isascii())
        assert found is not None and len(found) == len(set(found.tolist())) == len(plain(text, 5))


def test_packed_bytes() -> None:
    assert packed_bytes("abcabc", 3).tolist() == [0x636261, 0x616362, 0x626163, 0x636261]
    assert packed_bytes("abcdefgh", 8).tolist() == [0x6867666564636261]
