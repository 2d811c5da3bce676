"""Near-duplicates against the truth: the Jaccard index of every pair."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcc.core.errors import MccError, UsageError
from mcc.data.dedup import DedupConfig, dedup
from mcc.data.minhash import Alphabet, Bands, Signer, choose_bands, jaccard, set_jaccard, shingles
from tests.data.conftest import Write, read

WORDS = ("river", "stone", "under", "bright", "morning", "lantern", "copper", "follow", "gentle", "winter", "harbour")


def truth(left: str, right: str, chars: int = 5) -> float:
    sets = [{text[i : i + chars] for i in range(max(len(text) - chars, 0) + 1)} for text in (left, right)]
    if left == right:
        return 1.0
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1]) if left and right else 0.0


def family(generator: random.Random, size: int) -> list[str]:
    """A text and versions of it with ever more words changed."""
    words = [generator.choice(WORDS) + str(generator.randrange(100)) for _ in range(200)]
    texts = [" ".join(words)]
    for _ in range(size - 1):
        changed = list(words)
        for _ in range(generator.randrange(1, 40)):
            changed[generator.randrange(len(changed))] = generator.choice(WORDS) + str(generator.randrange(100))
        texts.append(" ".join(changed))
    return texts


@settings(max_examples=150, deadline=None)
@given(st.text("abé🦊", max_size=40), st.text("abé🦊", max_size=40), st.integers(1, 7))
def test_jaccard_is_exact(left: str, right: str, chars: int) -> None:
    assert jaccard(left, right, chars) == truth(left, right, chars)
    alphabet = Alphabet()
    one, other = alphabet.shingles(left, chars), alphabet.shingles(right, chars)
    if one is not None and other is not None:
        assert set_jaccard(one, other) == truth(left, right, chars)


def test_more_characters_than_can_be_packed() -> None:
    alphabet = Alphabet()
    assert alphabet.shingles("".join(map(chr, range(0x4E00, 0x4E00 + 4095))), 5) is not None
    assert alphabet.shingles("".join(map(chr, range(0x5E00, 0x5E10))), 5) is None
    assert alphabet.shingles("丁" * 9, 5) is not None


def test_signatures_agree_as_often_as_the_jaccard_index() -> None:
    """The expectation is the index; 60 pairs of 119 values make a standard error of their mean below 0.006."""
    signer = Signer(Bands(17, 7))
    generator = random.Random(3)
    differences = []
    for _ in range(20):
        texts = family(generator, 3)
        signatures = [signer.signature(shingles(text, 5)) for text in texts]
        for i, j in itertools.combinations(range(3), 2):
            differences.append(float((signatures[i] == signatures[j]).mean()) - truth(texts[i], texts[j]))
    assert abs(np.mean(differences)) < 0.02 and max(map(abs, differences)) < 0.2


def test_short_texts_have_signatures_too() -> None:
    signer = Signer(Bands(17, 7))
    for text in ("a", "abcde", "abcdef"):
        assert (signer.signature(shingles(text, 5)) == signer.signature(shingles(text, 5))).all()
    assert len(shingles("", 5)) == 0 and len(shingles("a", 5)) == 1
    assert shingles("ab", 5) != shingles("ac", 5)


def test_bands_follow_the_threshold() -> None:
    for threshold in (0.5, 0.7, 0.8, 0.9):
        bands = choose_bands(threshold)
        assert bands.bands * bands.rows <= 128
        assert bands.candidate_probability(threshold) > 0.95
        assert bands.candidate_probability(threshold / 3) < 0.2


def test_keeps_the_first_and_names_the_pair(jsonl: Write, tmp_path: Path) -> None:
    generator = random.Random(5)
    texts = [text for _ in range(30) for text in family(generator, 5)]
    generator.shuffle(texts)
    path = jsonl("in.jsonl", [{"id": i, "text": text} for i, text in enumerate(texts)])
    report = dedup([path], tmp_path / "out.jsonl", duplicates=tmp_path / "dup.jsonl")
    kept = [record["id"] for record in read(tmp_path / "out.jsonl")]
    assert kept == sorted(kept)
    pairs = read(tmp_path / "dup.jsonl")
    assert sorted(kept + [pair["removed"] for pair in pairs]) == list(range(len(texts)))
    assert report.removed == len(pairs) and report.candidates >= len(pairs)
    for pair in pairs:  # precision 1: each is a duplicate of an earlier document that was kept
        assert pair["kept"] in kept and pair["kept"] < pair["removed"]
        assert pair["similarity"] == round(truth(texts[pair["kept"]], texts[pair["removed"]]), 6) >= 0.8
    sets = [{text[i : i + 5] for i in range(len(text) - 4)} for text in texts]
    duplicates = [
        (i, j)
        for i, j in itertools.combinations(range(len(texts)), 2)
        if len(sets[i] & sets[j]) >= 0.8 * len(sets[i] | sets[j])
    ]
    missed = [(i, j) for i, j in duplicates if i in kept and j in kept]
    assert len(duplicates) > 80 and len(missed) <= 0.01 * len(duplicates)


def test_threshold_and_shingles(jsonl: Write, tmp_path: Path) -> None:
    generator = random.Random(6)
    texts = family(generator, 30)
    path = jsonl("in.jsonl", texts)
    kept = []
    for threshold in (0.5, 0.8, 0.95, 1.0):
        kept.append(dedup([path], tmp_path / "o.jsonl", DedupConfig(threshold=threshold)).documents_out)
    assert kept == sorted(kept) and kept[0] < kept[-1] == 30
    same = dedup([path, path], tmp_path / "o.jsonl", DedupConfig(threshold=1.0, shingle_chars=9))
    assert same.documents_out == 30
    chosen = dedup([path], tmp_path / "o.jsonl", DedupConfig(bands=40, rows=3))
    assert (chosen.bands, chosen.rows) == (40, 3)


def test_texts_without_or_almost_without_characters(jsonl: Write, tmp_path: Path) -> None:
    path = jsonl("in.jsonl", ["", "a", "", "ab", "a", "日本", "日本", "日本語"])
    dedup([path], tmp_path / "out.jsonl", duplicates=tmp_path / "dup.jsonl")
    assert [record["text"] for record in read(tmp_path / "out.jsonl")] == ["", "a", "ab", "日本", "日本語"]
    assert [pair["similarity"] for pair in read(tmp_path / "dup.jsonl")] == [1.0, 1.0, 1.0]
    assert read(tmp_path / "dup.jsonl")[0] == {"removed": f"{path}:3", "kept": f"{path}:1", "similarity": 1.0}


def test_one_character_that_cannot_be_packed_does_not_hide_a_duplicate(jsonl: Write, tmp_path: Path) -> None:
    text = " ".join(WORDS) * 20
    path = jsonl("in.jsonl", [text, text.replace("river", "ri—ver", 1), text.replace("stone", "st🦊ne", 1)])
    assert dedup([path], tmp_path / "out.jsonl").documents_out == 1


def test_names(jsonl: Write, tmp_path: Path) -> None:
    path = jsonl("in.jsonl", [{"text": "same", "url": "u1", "n": [1]}, {"text": "same", "url": "u2", "n": 2}])
    for key, expected in ((None, ("u2", "u1")), ("n", (2, [1]))):
        dedup([path], tmp_path / "o.jsonl", DedupConfig(key=key), duplicates=tmp_path / "d.jsonl")
        (pair,) = read(tmp_path / "d.jsonl")
        assert (pair["removed"], pair["kept"]) == expected
    with pytest.raises(MccError, match=r"in\.jsonl:1: no key 'x'"):
        dedup([path], tmp_path / "new.jsonl", DedupConfig(key="x"))
    assert not (tmp_path / "new.jsonl").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d.jsonl", "in.jsonl", "o.jsonl"]


def test_wrong_settings(jsonl: Write, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="num_perm = 2 is too small for threshold = 1"):
        choose_bands(1.0, 2)
    for options in ({"threshold": 0}, {"threshold": 1.1}, {"shingle_chars": 0}, {"num_perm": 1}, {"bands": 4}):
        with pytest.raises(UsageError):
            DedupConfig(**options)
    path = jsonl("in.jsonl", ["x"])
    with pytest.raises(UsageError, match="is an input or the output"):
        dedup([path], tmp_path / "o.jsonl", duplicates=path)
