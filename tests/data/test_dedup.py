"""Near-duplicates against the truth: the Jaccard index of every pair."""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcc.core.errors import MccError, UsageError
from mcc.core.events import SILENT
from mcc.data.base.job import Map, finish, run_phase
from mcc.data.base.records import ReadConfig
from mcc.data.base.work import opened
from mcc.data.dedup import DedupConfig, Sides, dedup, dedup_job
from mcc.data.near_duplicates import candidates, compare, fingerprints
from tests.data.conftest import Write, read
from tests.data.near_duplicates.test_shingles import truth

WORDS = ("river", "stone", "under", "bright", "morning", "lantern", "copper", "follow", "gentle", "winter", "harbour")


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
    strict = DedupConfig(key="x", read=ReadConfig(on_error="fail"))
    with pytest.raises(
        MccError, match=r"in\.jsonl:1: no key 'x' to name the document by \(there is 'text', 'url', 'n'"
    ):
        dedup([path], tmp_path / "new.jsonl", strict)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d.jsonl", "in.jsonl", "o.jsonl"]
    report = dedup([path], tmp_path / "new.jsonl", DedupConfig(key="x"))
    assert (report.documents_in, report.documents_out, report.bad_lines, report.chars_in) == (0, 0, 2, 0)
    assert "no key 'x'" in read(tmp_path / "new.rejects.jsonl")[0]["reason"]


def test_wrong_settings(jsonl: Write, tmp_path: Path) -> None:
    for options in ({"threshold": 0}, {"threshold": 1.1}, {"shingle_chars": 0}, {"num_perm": 1}, {"bands": 4}):
        with pytest.raises(UsageError):
            DedupConfig(**options)
    path = jsonl("in.jsonl", ["x"])
    with pytest.raises(UsageError, match="both input and output"):
        dedup([path], tmp_path / "o.jsonl", duplicates=path)
    for options in (
        {"keep": "last"},
        {"keep": "best"},
        {"by": "score"},
        {"engine": "slow"},
        {"normalize": "upper", "exact": True},
        {"normalize": "letters"},
        {"exact": True, "threshold": 0.5},
        {"exact": True, "bands": 4, "rows": 4},
        {"exact": True, "engine": "datasketch"},
        {"workers": 0},
    ):
        with pytest.raises(UsageError):
            DedupConfig(**options)


def corpus(seed: int, families: int = 12, copies: int = 3) -> list[str]:
    generator = random.Random(seed)
    texts = [text for _ in range(families) for text in family(generator, 5)]
    texts += [generator.choice(texts) for _ in range(copies * families)]
    texts += ["", "", "ab", "ab", "日本語" * 40, "日本語" * 40 + "です"]
    generator.shuffle(texts)
    return texts


def greedy(texts: list[str], order: Sequence[int], loaded: Sequence[str] = (), threshold: float = 0.8) -> list[int]:
    """Brute force: each document in turn stays unless it is a duplicate of one that stays."""
    kept: list[int] = []
    for i in order:
        others = [*loaded, *(texts[j] for j in kept)]
        if all(truth(texts[i], other) < threshold for other in others):
            kept.append(i)
    return sorted(kept)


def kept_of(path: Path) -> list[int]:
    return [record["id"] for record in read(path)]


def write(jsonl: Write, name: str, texts: list[str], first: int = 0) -> Path:
    return jsonl(name, [{"id": first + i, "text": text, "n": i * 7 % 11} for i, text in enumerate(texts)])


# So many bands of one value that any pair of duplicates meets: the result must be that of brute force.
ALL = {"bands": 128, "rows": 1}


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10**6), st.sampled_from(["first", "longest", "best"]), st.sampled_from([0.5, 0.8, 0.95]))
def test_the_result_is_that_of_brute_force(
    jsonl: Write, tmp_path: Path, seed: int, keep: str, threshold: float
) -> None:
    texts = corpus(seed, 6)
    path = write(jsonl, "in.jsonl", texts)
    config = DedupConfig(keep=keep, by="n" if keep == "best" else None, threshold=threshold, **ALL)
    dedup([path], tmp_path / "out.jsonl", config, duplicates=tmp_path / "dup.jsonl")
    rank = {"first": lambda i: i, "longest": lambda i: (-len(texts[i]), i), "best": lambda i: (-(i * 7 % 11), i)}[keep]
    order = sorted(range(len(texts)), key=rank)
    kept = greedy(texts, order, threshold=threshold)
    assert kept_of(tmp_path / "out.jsonl") == kept
    pairs = read(tmp_path / "dup.jsonl")
    assert [pair["removed"] for pair in pairs] == [i for i in range(len(texts)) if i not in kept]
    for pair in pairs:
        expected = next(i for i in order if i in kept and truth(texts[i], texts[pair["removed"]]) >= threshold)
        assert pair["kept"] == expected
        assert pair["similarity"] == round(truth(texts[expected], texts[pair["removed"]]), 6)


def test_little_memory_gives_the_same(jsonl: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys spread over files, rows put together a few at a time, caches of a few entries, blocks of a few documents."""
    path = write(jsonl, "in.jsonl", corpus(1))
    outputs = [tmp_path / "out.jsonl", tmp_path / "dup.jsonl"]
    for keep in ("first", "longest"):
        dedup([path], outputs[0], DedupConfig(keep=keep), duplicates=outputs[1])
        expected = [output.read_bytes() for output in outputs]
        with monkeypatch.context() as patch:
            patch.setattr(candidates, "SORTED_ENTRIES", 10)
            patch.setattr(candidates, "_ROWS", 7)
            patch.setattr(compare, "_CACHED_SMALL", 3)
            patch.setattr(compare, "_CACHED_TEXT_BYTES", 10_000)
            small = ReadConfig(block_bytes=10_000)
            dedup([path], outputs[0], DedupConfig(keep=keep, read=small), duplicates=outputs[1])
        assert [output.read_bytes() for output in outputs] == expected


def test_workers_and_shards_give_the_same(jsonl: Write, tmp_path: Path) -> None:
    paths = [write(jsonl, "a.jsonl", corpus(1)), write(jsonl, "b.jsonl", corpus(2), 1000)]
    read_small = ReadConfig(block_bytes=20_000)
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    dedup(paths, one, DedupConfig(read=read_small))
    dedup(paths, two, DedupConfig(read=read_small, workers=2))
    assert one.read_bytes() == two.read_bytes()
    sharded = tmp_path / "sharded.jsonl"
    job = dedup_job(paths, sharded, DedupConfig(read=read_small))
    with opened(sharded, job.fingerprint()) as work:
        for phase in job.phases:
            for rank in (2, 0, 1) if isinstance(phase, Map) else (0,):
                run_phase(phase, work, job.name, rank=rank, world=3)
        report = finish(job, work, SILENT)
    assert sharded.read_bytes() == one.read_bytes() and report.documents_in > report.documents_out > 0


@pytest.mark.parametrize("engine", ["fast", "datasketch"])
def test_fingerprints_stand_for_an_earlier_corpus(jsonl: Write, tmp_path: Path, engine: str) -> None:
    texts = corpus(3)
    half = len(texts) // 2
    a, b = write(jsonl, "a.jsonl", texts[:half]), write(jsonl, "b.jsonl", texts[half:], half)
    config = DedupConfig(engine=engine, bands=40, rows=2)
    dedup([a, b], tmp_path / "both.jsonl", config, duplicates=tmp_path / "both.dup.jsonl")
    dedup([a], tmp_path / "first.jsonl", config, sides=Sides(save=tmp_path / "a.prints"))
    later = Sides(load=(tmp_path / "a.prints",), duplicates=tmp_path / "dup.jsonl", save=tmp_path / "b.prints")
    report = dedup([b], tmp_path / "second.jsonl", config, sides=later)
    kept = kept_of(tmp_path / "first.jsonl") + kept_of(tmp_path / "second.jsonl")
    assert kept == kept_of(tmp_path / "both.jsonl") and report.documents_in == len(texts) - half
    pairs = [pair for pair in read(tmp_path / "both.dup.jsonl") if pair["removed"] >= half]
    assert read(tmp_path / "dup.jsonl") == pairs
    # All that has been kept so far: nothing of it is new.
    all_prints = Sides(load=(tmp_path / "a.prints", tmp_path / "b.prints"))
    assert dedup([a, b], tmp_path / "none.jsonl", config, sides=all_prints).documents_out == 0
    # Whatever is kept of the new ones, loaded ones come first.
    longest = DedupConfig(engine=engine, keep="longest", bands=40, rows=2)
    dedup([b], tmp_path / "longest.jsonl", longest, sides=Sides(load=(tmp_path / "a.prints",)))
    order = sorted(range(half, len(texts)), key=lambda i: (-len(texts[i]), i))
    loaded = [texts[i] for i in kept_of(tmp_path / "first.jsonl")]
    assert kept_of(tmp_path / "longest.jsonl") == greedy(texts, order, loaded)


def test_datasketch_reads_its_fingerprints(jsonl: Write, tmp_path: Path) -> None:
    from datasketch import MinHash, MinHashLSH

    texts = family(random.Random(2), 4)
    path = write(jsonl, "in.jsonl", texts)
    prints = tmp_path / "p.prints"
    dedup([path], tmp_path / "o.jsonl", DedupConfig(engine="datasketch", threshold=1), sides=Sides(save=prints))
    lsh = MinHashLSH(threshold=0.5, num_perm=next(fingerprints.minhashes(prints))[1].hashvalues.size)
    for (name, sketch), text in zip(fingerprints.minhashes(prints), texts, strict=True):
        lsh.insert(name, sketch)
        own = MinHash(num_perm=len(sketch))
        own.update_batch([text[i : i + 5].encode() for i in range(len(text) - 4)])
        assert sketch.jaccard(own) == 1.0 and name in lsh.query(own)
    dedup([path], tmp_path / "o.jsonl", DedupConfig(), sides=Sides(save=prints))
    with pytest.raises(MccError, match="sketches of engine fast"):
        list(fingerprints.minhashes(prints))


def test_fingerprints_that_do_not_fit_are_refused(
    jsonl: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(jsonl, "in.jsonl", corpus(4, 2))
    prints, out = tmp_path / "p.prints", tmp_path / "o.jsonl"
    dedup([path], out, DedupConfig(threshold=0.7), sides=Sides(save=prints))
    whole = prints.read_bytes()
    sides = Sides(load=(prints,))

    def refused(because: str, **options: Any) -> None:
        with pytest.raises(MccError, match=because):
            dedup([path], tmp_path / "new.jsonl", DedupConfig(**{"threshold": 0.7, **options}), sides=sides)
        assert not (tmp_path / "new.jsonl").exists()

    refused("p.prints: made with bands = ", bands=9, rows=9)
    refused("p.prints: made with shingle_chars = 5, not 6", shingle_chars=6)
    refused("p.prints: made with engine = fast, not datasketch", engine="datasketch")
    refused("p.prints: made with exact = False, not True", exact=True, threshold=0.8)
    with monkeypatch.context() as patch:
        patch.setattr("mcc.data.near_duplicates.sketch.SKETCH_VERSION", 2)
        refused("p.prints: made with library = mcc sketch 1, not mcc sketch 2")
    dedup([path], out, DedupConfig(threshold=0.9, bands=42, rows=6), sides=sides)  # the bands of 0.7
    for broken, because in (
        (b"", "no fingerprints"),
        (b'{"text": "a"}\n', "no fingerprints"),
        (bytes(100), "no fingerprints"),
        (whole.replace(b'"version": 1', b'"version": 9'), "format 9, this version reads 1"),
        (whole[: len(whole) // 2], "damaged at byte"),
        (whole[:-100], "cut off at byte"),
        (whole.replace(b"MCCF", b"ABCD"), "damaged at byte"),
    ):
        prints.write_bytes(broken)
        refused(because)
    prints.unlink()
    refused("no such fingerprints")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damage_to_fingerprints_is_told_in_one_line(jsonl: Write, tmp_path: Path, data: st.DataObject) -> None:
    path, prints = tmp_path / "in.jsonl", tmp_path / "p.prints"
    if not path.exists():
        write(jsonl, "in.jsonl", family(random.Random(1), 4))
        dedup([path], tmp_path / "o.jsonl", DedupConfig(threshold=0.9), sides=Sides(save=tmp_path / "whole"))
    raw = bytearray((tmp_path / "whole").read_bytes())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    prints.write_bytes(raw[: data.draw(st.sampled_from([len(raw), at]))])
    with contextlib.suppress(MccError):
        sides = Sides(load=(prints,), duplicates=tmp_path / "d.jsonl")
        dedup([path], tmp_path / "o.jsonl", DedupConfig(threshold=0.9), sides=sides)


def test_exact_duplicates_only(jsonl: Write, tmp_path: Path) -> None:
    texts = ["Same  text.", "same text", "Same text.", "Same  text.", "other", "ﬁne", "fine!"]
    path = write(jsonl, "in.jsonl", texts)
    out, prints = tmp_path / "o.jsonl", tmp_path / "p.prints"
    for normalize, kept in (("none", [0, 1, 2, 4, 5, 6]), ("whitespace", [0, 1, 4, 5, 6]), ("letters", [0, 4, 5])):
        config = DedupConfig(exact=True, normalize=normalize)
        report = dedup([path], out, config, duplicates=tmp_path / "d.jsonl", sides=Sides(save=prints))
        assert kept_of(out) == kept and report.removed == report.copies == len(texts) - len(kept)
        assert all(pair["similarity"] == 1.0 for pair in read(tmp_path / "d.jsonl"))
        assert dedup([path], out, config, sides=Sides(load=(prints,))).documents_out == 0


def test_a_key_for_each_input(jsonl: Write, tmp_path: Path) -> None:
    a = jsonl("a.jsonl", [{"text": "same", "url": "u"}, {"text": "more", "url": "v"}])
    b = jsonl("b.jsonl", [{"text": "same", "cc_id": 5}, {"text": "more", "cc_id": {"x": 1}}])
    dedup([a, b], tmp_path / "o.jsonl", DedupConfig(key=("url", "cc_id")), duplicates=tmp_path / "d.jsonl")
    assert [(pair["removed"], pair["kept"]) for pair in read(tmp_path / "d.jsonl")] == [(5, "u"), ({"x": 1}, "v")]
    with pytest.raises(UsageError, match="3 keys for 2 inputs"):
        dedup([a, b], tmp_path / "o.jsonl", DedupConfig(key=("url", "cc_id", "id")))
    with pytest.raises(UsageError, match="given twice, with the keys"):
        dedup([a, a], tmp_path / "o.jsonl", DedupConfig(key=("url", "cc_id")))


def test_many_alike_documents_are_not_all_compared(jsonl: Write, tmp_path: Path) -> None:
    """Copies are not compared at all, near-copies with the one that is kept."""
    generator = random.Random(9)
    words = [generator.choice(WORDS) + str(i) for i in range(300)]
    near = []
    for _ in range(300):
        changed = list(words)
        changed[generator.randrange(300)] = "changed"
        near.append(" ".join(changed))
    path = write(jsonl, "in.jsonl", [near[0]] * 3000 + near)
    report = dedup([path], tmp_path / "o.jsonl")
    assert report.documents_out == 1 and report.copies >= 2999 and report.candidates <= 300


def test_lines_stay_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text":  "a"}\r\n\n{"text": "a"}\nnot json\n{"text": "b\\u0000", "x": 1e2}')
    report = dedup([path], tmp_path / "o.jsonl")
    assert (tmp_path / "o.jsonl").read_bytes() == b'{"text":  "a"}\n{"text": "b\\u0000", "x": 1e2}\n'
    assert (report.bad_lines, report.documents_in, report.documents_out, report.chars_out) == (1, 3, 2, 3)
    assert read(tmp_path / "o.rejects.jsonl")[0]["where"] == f"{path}:4"
