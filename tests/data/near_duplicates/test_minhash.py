"""Sketches agree as often as sets do, whatever the number of shingles."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import pytest

from mcc.core.errors import UsageError
from mcc.data.near_duplicates import shingles
from mcc.data.near_duplicates.minhash import Bands, Signer, choose_bands
from mcc.data.near_duplicates.sketch import Datasketch, Fast
from tests.data.near_duplicates.test_shingles import truth


def pairs(generator: random.Random, length: int, count: int) -> tuple[list[str], list[str]]:
    left, right = [], []
    for _ in range(count):
        text = [generator.choice("etaoin shrdlu") for _ in range(length)]
        other = list(text)
        for _ in range(max(1, int(length * generator.choice((0.01, 0.02, 0.05))))):
            other[generator.randrange(length)] = generator.choice("ABCDE")
        left.append("".join(text))
        right.append("".join(other))
    return left, right


@pytest.mark.parametrize("length", [12, 30, 100, 400, 3000])
def test_sketches_agree_as_often_as_the_jaccard_index(length: int) -> None:
    """The expectation is the index. K values of a pair have a standard error of sqrt(J (1 - J) / K) at most."""
    signer = Signer(Bands(30, 8), 5)
    count = 80
    left, right = pairs(random.Random(length), length, count)
    true = np.array([truth(*pair) for pair in zip(left, right, strict=True)])
    found = (signer.sketches(left) == signer.sketches(right)).mean(axis=1)
    error = np.sqrt((true * (1 - true)).mean() / signer.slots)
    assert abs(np.mean(found - true)) < 4 * error / np.sqrt(count) + 0.002
    assert np.sqrt(np.mean((found - true) ** 2)) < 1.5 * error


def test_a_sketch_depends_on_the_set_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not on the block, on repetitions, on the size of the pieces, nor on what else is in the text's block."""
    generator = random.Random(1)
    texts = ["", "a", "abcd", "abcde", "é" * 9, "日本語の文", "abcdeabcde" * 500]
    texts += ["".join(generator.choice("abé") for _ in range(n)) for n in (7, 90, 700)]
    texts += ["".join(generator.choice("abcdefgh ") for _ in range(n)) for n in (7, 90, 700, 5000)]
    signer = Signer(Bands(17, 7), 5)
    together = signer.sketches(texts)
    assert (together == np.concatenate([signer.sketches([text]) for text in texts])).all()
    assert (signer.sketches(["abcde" * 4]) == signer.sketches(["abcde" * 40_000])).all()
    assert (together != 0xFFFFFFFF).all()
    monkeypatch.setattr(shingles, "PIECE_CHARS", 32)
    monkeypatch.setattr("mcc.data.near_duplicates.minhash.PIECE_CHARS", 32)
    assert (together == signer.sketches(texts)).all()


def test_band_keys() -> None:
    signer = Signer(Bands(4, 3), 5)
    sketches = np.zeros((3, 16), dtype=np.uint32)
    sketches[1, 4] = 1  # band 1
    sketches[2, 12:] = 7  # in no band
    keys = signer.band_keys(sketches)
    assert keys.shape == (4, 3)
    assert (keys[:, 0] == keys[:, 2]).all()
    assert (keys[:, 0] == keys[:, 1]).tolist() == [True, False, True, True]


def test_saved_sketches_stay_what_they_are() -> None:
    """Whoever changes them must raise SKETCH_VERSION, and this digest."""
    texts = ["", "short", "the quick brown fox jumps over the lazy dog " * 9, "Привет, мир! 日本語 🦊" * 20]
    keys, sketches = Fast(Bands(30, 8), 5).sketches(texts)
    digest = hashlib.sha256(keys.astype("<u8").tobytes() + sketches.tobytes()).hexdigest()
    assert digest == "1e7113938ec2fcc367e9d7a046b3101de6c6654d001bcd510b59ffd46a56d512"


def test_chosen_bands_find_what_they_should() -> None:
    for threshold in (0.5, 0.7, 0.8, 0.9):
        bands = choose_bands(threshold)
        assert bands.bands * bands.rows <= 256
        assert bands.candidate_probability(threshold) > 0.98
        assert bands.candidate_probability(threshold / 3) < 0.2
    assert choose_bands(1.0, 2).bands == 2
    for threshold, length in ((1.1, 128), (0.8, 1)):
        with pytest.raises(UsageError, match="must be"):
            choose_bands(threshold, length)


def test_datasketch_sketches_are_its_own() -> None:
    from datasketch import LeanMinHash, MinHash, MinHashLSH

    generator = random.Random(4)
    left, right = pairs(generator, 120, 40)
    texts = ["", "ab", *left, *right, "日本語の文章です"]
    bands = Bands(10, 4)
    engine = Datasketch(bands, 5)
    keys, sketches = engine.sketches(texts)
    lsh = MinHashLSH(params=(10, 4), num_perm=40)
    hashes = []
    for i, text in enumerate(texts):
        own = MinHash(num_perm=40)
        own.update_batch([text[j : j + 5].encode() for j in range(max(len(text) - 5, 0) + 1)])
        assert LeanMinHash.deserialize(sketches[i].tobytes()) == LeanMinHash(own)
        lsh.insert(str(i), own)
        hashes.append(own)
    for i, own in enumerate(hashes):
        met = {str(j) for j in np.flatnonzero((keys == keys[:, [i]]).any(axis=0))}
        assert met == set(lsh.query(own))
        near = engine.likeness(sketches[i].tobytes(), [row.tobytes() for row in sketches])
        assert near.tolist() == [own.jaccard(other) for other in hashes]


def test_fast_likeness() -> None:
    engine = Fast(Bands(2, 2), 5)
    assert engine.samples == 4
    assert engine.likeness(bytes([1, 2, 3, 4]), [bytes([1, 2, 3, 4]), bytes([1, 2, 0, 0])]).tolist() == [1.0, 0.5]


def test_the_default_choice_of_bands_is_datasketchs() -> None:
    from datasketch import MinHashLSH

    chosen = MinHashLSH(threshold=0.8, num_perm=256, weights=(0.005, 0.995))
    assert choose_bands(0.8, 256) == Bands(chosen.b, chosen.r)
