"""The three steps: their files are those of the scripts, and together they do what they say."""

from __future__ import annotations

import random
from pathlib import Path

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcc.core.errors import MccError, UsageError
from mcc.data.base.records import ReadConfig
from mcc.data.dedup import DedupConfig, Sides
from mcc.data.dedup_steps.find import find_duplicates
from mcc.data.dedup_steps.group import group_duplicates
from mcc.data.dedup_steps.remove import RemoveConfig, remove_duplicates
from mcc.data.near_duplicates import candidates
from tests.data.conftest import Write, read
from tests.data.near_duplicates.test_shingles import truth
from tests.data.test_dedup import corpus

# Every pair of documents meets in some band.
ALL = {"bands": 128, "rows": 1}


def named(jsonl: Write, name: str, texts: list[str]) -> Path:
    return jsonl(name, [{"url": f"u{i}", "text": text} for i, text in enumerate(texts)])


def found_pairs(path: Path) -> dict[tuple[str, str], float]:
    """The pairs in a file, each named once."""
    found: dict[tuple[str, str], float] = {}
    for line in read(path):
        ((main, others),) = line.items()
        for other in others:
            ((name, similarity),) = other.items()
            assert (main, name) not in found
            found[main, name] = similarity
    return found


def components(count: int, edges: list[tuple[int, int]]) -> set[frozenset[int]]:
    label = list(range(count))
    for _ in range(count):
        for i, j in edges:
            label[i] = label[j] = min(label[i], label[j])
    return {frozenset(i for i in range(count) if label[i] == each) for each in set(label)}


@pytest.mark.parametrize("threshold", [0.5, 0.8])
def test_pairs_groups_and_what_stays(jsonl: Write, tmp_path: Path, threshold: float) -> None:
    texts = corpus(7, 8)
    path = named(jsonl, "in.jsonl", texts)
    pairs, groups, out = tmp_path / "pairs.jsonl", tmp_path / "groups.jsonl", tmp_path / "out.jsonl"
    config = DedupConfig(threshold=threshold, key="url", **ALL)
    report = find_duplicates([path], pairs, config, mains=-1)
    found = found_pairs(pairs)
    assert report.pairs == len(found) > 20 and report.documents_in == len(texts)
    for (main, other), similarity in found.items():
        i, j = int(main[1:]), int(other[1:])
        assert i < j and similarity == round(truth(texts[i], texts[j]), 6) >= threshold
    edges = [(i, j) for j in range(len(texts)) for i in range(j) if truth(texts[i], texts[j]) >= threshold]
    expected = components(len(texts), edges)
    grouped = group_duplicates(pairs, groups, threshold)
    rows = [next(iter(row.items())) for row in read(groups)]
    assert [name for name, _ in rows] == [str(i) for i in range(len(rows))]
    assert {frozenset(int(name[1:]) for name in names) for _, names in rows} == {g for g in expected if len(g) > 1}
    assert grouped.groups == len(rows) and grouped.duplicates == len(texts) - len(expected)
    removed = remove_duplicates(groups, [path], out)
    assert [row["url"] for row in read(out)] == [f"u{i}" for i in sorted(min(group) for group in expected)]
    assert removed.removed == grouped.duplicates and removed.documents_out == len(expected)


def test_one_main_document_a_bucket_makes_few_comparisons(jsonl: Write, tmp_path: Path) -> None:
    texts = corpus(8, 6)
    path = named(jsonl, "in.jsonl", texts)
    # One band of one value: a bucket is what shares it.
    config = DedupConfig(threshold=0.5, key="url", bands=1, rows=1)
    one = find_duplicates([path], tmp_path / "one.jsonl", config)
    all_of_them = find_duplicates([path], tmp_path / "all.jsonl", config, mains=-1)
    few, many = found_pairs(tmp_path / "one.jsonl"), found_pairs(tmp_path / "all.jsonl")
    assert set(few.items()) <= set(many.items()) and one.candidates <= all_of_them.candidates
    assert len({name for pair in few for name in pair}) > 10


def test_fingerprints_and_little_memory(jsonl: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = corpus(9, 6)
    half = len(texts) // 2
    whole = named(jsonl, "in.jsonl", texts)
    first = jsonl("a.jsonl", read(whole)[:half])
    second = jsonl("b.jsonl", read(whole)[half:])
    config = DedupConfig(threshold=0.6, key="url", **ALL)
    both, later = tmp_path / "both.jsonl", tmp_path / "later.jsonl"
    find_duplicates([whole], both, config, mains=-1)
    find_duplicates([first], tmp_path / "x.jsonl", config, mains=-1, sides=Sides(save=tmp_path / "a.prints"))
    find_duplicates([second], later, config, mains=-1, sides=Sides(load=(tmp_path / "a.prints",)))
    new = {pair: value for pair, value in found_pairs(both).items() if int(pair[1][1:]) >= half}
    old = found_pairs(later)
    assert set(old.items()) <= set(new.items()) and {other for _, other in old} == {other for _, other in new}
    expected = both.read_bytes()
    monkeypatch.setattr(candidates, "SORTED_ENTRIES", 9)
    small = DedupConfig(threshold=0.6, key="url", read=ReadConfig(block_bytes=8000), workers=2, **ALL)
    find_duplicates([whole], both, small, mains=-1)
    assert sorted(both.read_bytes().splitlines()) == sorted(expected.splitlines())


PAIR_LINES = st.lists(
    st.tuples(
        st.sampled_from("abcdefghij"),
        st.lists(st.tuples(st.sampled_from("abcdefghij"), st.floats(0, 1)), max_size=4),
    ),
    max_size=12,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(PAIR_LINES, st.sampled_from([0.0, 0.5, 0.7, 1.0]))
def test_groups_of_any_pairs(tmp_path: Path, lines: list, threshold: float) -> None:
    pairs, groups = tmp_path / "pairs.jsonl", tmp_path / "groups.jsonl"
    pairs.write_bytes(
        b"".join(orjson.dumps({main: [{name: value} for name, value in others]}) + b"\n" for main, others in lines)
    )
    group_duplicates(pairs, groups, threshold)
    names = "abcdefghij"
    edges = [
        (names.index(main), names.index(name)) for main, others in lines for name, value in others if value >= threshold
    ]
    expected = {frozenset(names[i] for i in group) for group in components(10, edges) if len(group) > 1}
    rows = [value for row in read(groups) for value in row.values()]
    assert {frozenset(row) for row in rows} == expected and all(len(set(row)) == len(row) for row in rows)
    met = [name for main, others in lines for name in (main, *(n for n, value in others if value >= threshold))]
    for row in rows:
        assert row == sorted(row, key=met.index)


def test_files_of_the_scripts_are_read(tmp_path: Path, jsonl: Write) -> None:
    """As the scripts write them: several others a main document, spaces behind commas, no ASCII escapes."""
    pairs, groups, out = tmp_path / "p.jsonl", tmp_path / "g.jsonl", tmp_path / "o.jsonl"
    pairs.write_text('{"é": [{"b": 0.91}, {"c": 0.55}]}\n{"c": [{"d": 1.0}]}\n{"x": [{"y": 0.6}]}\n', encoding="utf-8")
    group_duplicates(pairs, groups)
    assert groups.read_text(encoding="utf-8") == '{"0":["é","b"]}\n{"1":["c","d"]}\n'
    groups.write_text('{"0": ["é", "b"]}\n{"7": ["7", "c"]}\n', encoding="utf-8")
    names: list = ["é", "b", 7, "c", "d", ["c"]]
    remove_duplicates(groups, [jsonl("in.jsonl", [{"text": "t", "id": n} for n in names])], out, RemoveConfig(key="id"))
    assert [row["id"] for row in read(out)] == ["é", 7, "d", ["c"]]


@pytest.mark.parametrize("line", ["[1]", "nonsense", '{"a": 1}', '{"a": [{"b": "x"}]}', '{"a": ["b"]}', '"a"'])
def test_wrong_lines(tmp_path: Path, jsonl: Write, line: str) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text(f'{{"a": []}}\n\n{line}\n')
    with pytest.raises(MccError, match=r"bad\.jsonl:3: no line of pairs"):
        group_duplicates(bad, tmp_path / "o.jsonl")
    path = jsonl("in.jsonl", [{"text": "t", "url": "a"}])
    if line not in ('{"a": [{"b": "x"}]}', '{"a": ["b"]}'):
        with pytest.raises(MccError, match=r"bad\.jsonl:3: no group"):
            remove_duplicates(bad, [path], tmp_path / "o.jsonl")
    assert not (tmp_path / "o.jsonl").exists()


def test_wrong_settings_and_documents_without_a_name(tmp_path: Path, jsonl: Write) -> None:
    path = jsonl("in.jsonl", [{"text": "t"}, {"text": "t", "url": "a"}])
    groups = tmp_path / "g.jsonl"
    groups.write_text('{"0": ["z", "a"]}\n')
    report = remove_duplicates(groups, [path], tmp_path / "o.jsonl")
    assert (report.bad_lines, report.documents_in, report.removed) == (1, 1, 1)
    for wrong in (
        lambda: find_duplicates([path], tmp_path / "o.jsonl", mains=0),
        lambda: find_duplicates([path], tmp_path / "o.jsonl", DedupConfig(keep="longest")),
        lambda: group_duplicates(path, tmp_path / "o.jsonl", 1.5),
        lambda: group_duplicates(path, path),
        lambda: RemoveConfig(workers=0),
    ):
        with pytest.raises(UsageError):
            wrong()
    with pytest.raises(MccError, match="no such file of groups"):
        remove_duplicates(tmp_path / "none", [path], tmp_path / "o.jsonl")


def test_a_bucket_drawn_at_random_is_not_needed(jsonl: Write, tmp_path: Path) -> None:
    """The same input gives the same file."""
    path = named(jsonl, "in.jsonl", random.Random(1).choices(corpus(2, 4), k=60))
    one, two = tmp_path / "1.jsonl", tmp_path / "2.jsonl"
    for out in (one, two):
        find_duplicates([path], out)
    assert one.read_bytes() == two.read_bytes() != b""


def test_pairs_and_groups_are_no_table(jsonl: Write, tmp_path: Path) -> None:
    source = jsonl("in.jsonl", ["some text", "some text"])
    with pytest.raises(UsageError, match="records are written as JSON lines"):
        find_duplicates([source], tmp_path / "pairs.parquet")
    find_duplicates([source], tmp_path / "pairs.jsonl")
    with pytest.raises(UsageError, match="records are written as JSON lines"):
        group_duplicates(tmp_path / "pairs.jsonl", tmp_path / "groups.parquet")
