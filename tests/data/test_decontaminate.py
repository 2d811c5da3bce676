"""Decontamination against a plain reading of the rule, which re-reads every piece from its start."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcc.core.errors import MccError, UsageError
from mcc.core.events import SILENT
from mcc.data.base.job import Map, finish, run_phase
from mcc.data.base.records import ReadConfig
from mcc.data.base.work import opened
from mcc.data.decontaminate import DecontaminateConfig, TaskFile, decontaminate, decontaminate_job
from mcc.data.ngrams import lookup
from mcc.data.ngrams.contamination import SuspectDocument
from mcc.data.ngrams.dictionary import load, task_ngrams
from mcc.data.ngrams.lookup import NgramHashes, NgramIndex

TASK = TaskFile(name="lambada", path="unused")


def index_of(tasks: list[str], top: int = 13, low: int = 8) -> NgramIndex:
    numbers = {ngram: i for i, ngram in enumerate(dict.fromkeys(task_ngrams(tasks, top, low)))}
    return NgramIndex(NgramHashes.of(list(numbers), top), top, lambda: numbers)


def cut(text: str, index: NgramIndex, config: DecontaminateConfig) -> tuple[list[str], list[str]]:
    found = [SuspectDocument(suspect, index).cut(text, config) for suspect in index.find([text])]
    return found[0] if found else ([text], [])


def count(text: str, index: NgramIndex) -> set[str]:
    return set().union(*(SuspectDocument(suspect, index).count() for suspect in index.find([text])))


def words_of(text: str) -> tuple[list[str], list[int]]:
    found = list(re.finditer(r"\w+", text.lower()))
    return [match[0] for match in found], [match.start() for match in found]


def plain_match(text: str, ngrams: set[str], top: int) -> tuple[int, str] | None:
    words, starts = words_of(text)
    lengths = sorted({len(ngram.split()) for ngram in ngrams})
    for i in range(len(words) - top + 1):
        for length in (top, *lengths):
            if (key := " ".join(words[i : i + length])) in ngrams:
                return starts[i], key
    if len(words) > top:
        last = len(words) - top
        for length in lengths:
            for i in range(top - length + 1):
                key = " ".join(words[last + i : last + i + length])
                if length != top and key in ngrams:
                    return starts[last + i], key
    return None


def plain_cut(text: str, ngrams: set[str], config: DecontaminateConfig) -> list[str]:
    pieces = []
    rest: str | None = text
    while rest is not None:
        match = plain_match(rest, ngrams, config.max_ngram)
        if match is None:
            pieces.append(rest)
            break
        start, key = match
        at = start - config.remove_chars_each_side
        while at > 0 and rest[at] not in ".!?":
            at -= 1
        if at > 0 and at + 1 > config.min_piece_chars:
            pieces.append(rest[: at + 1])
        at = start + len(key) + config.remove_chars_each_side
        while at < len(rest) and rest[at] not in ".!?":
            at += 1
        behind = rest[at + 1 :]
        rest = behind if len(behind) > config.min_piece_chars else None
    return pieces


def plain_count(text: str, ngrams: set[str], top: int) -> set[str]:
    found = set()
    rest = text
    while rest and (match := plain_match(rest, ngrams, top)) is not None:
        found.add(match[1])
        rest = rest[match[0] + len(match[1]) + 1 :]
    return found


# Few words and many kinds of gaps, so that n-grams meet, overlap, and are cut through.
WORDS = st.sampled_from(["a", "b", "Ca", "bb", "É"])
GAPS = st.sampled_from([" ", " ", ", ", ". ", "?!", "  ", "?", "   "])


@st.composite
def texts(draw: st.DrawFn, most: int) -> str:
    parts = draw(st.lists(st.tuples(WORDS, GAPS), min_size=1, max_size=most))
    return draw(GAPS) + "".join(word + gap for word, gap in parts)


@settings(max_examples=400, deadline=None)
@given(
    text=texts(120),
    tasks=st.lists(texts(7), min_size=1, max_size=4),
    top=st.integers(2, 5),
    low=st.integers(1, 2),
    side=st.integers(0, 12),
    piece=st.integers(0, 12),
)
def test_equals_the_plain_rule(text: str, tasks: list[str], top: int, low: int, side: int, piece: int) -> None:
    config = DecontaminateConfig(
        tasks=(TASK,), max_ngram=top, min_ngram=low, remove_chars_each_side=side, min_piece_chars=piece
    )
    index = index_of(tasks, top, low)
    ngrams = set(index.numbers)
    assert cut(text, index, config)[0] == plain_cut(text, ngrams, config)
    assert count(text, index) == plain_count(text, ngrams, top)


def test_lengths_of_ngrams() -> None:
    counts = {n: len(list(task_ngrams([" ".join(f"w{i}" for i in range(n))]))) for n in (7, 8, 12, 13, 15)}
    assert counts == {7: 0, 8: 1, 12: 1, 13: 1, 15: 3}


PASSAGE = "the quick brown fox jumps over the lazy dog while seven wizards watch quietly from afar"


def write(path: Path, texts: list[str]) -> Path:
    path.write_bytes(b"".join(orjson.dumps({"text": text, "id": i}) + b"\n" for i, text in enumerate(texts)))
    return path


def run(tmp_path: Path, documents: list[str], **options: int) -> tuple[list[dict], object]:
    task = TaskFile(name="lambada", path=str(write(tmp_path / "task.jsonl", [PASSAGE])))
    config = DecontaminateConfig(tasks=(task,), **options)
    report = decontaminate([write(tmp_path / "in.jsonl", documents)], tmp_path / "out.jsonl", config)
    return [orjson.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines()], report


def test_a_passage_is_cut_out(tmp_path: Path) -> None:
    left, right = "Left sentence here. " * 40, "Right sentence here. " * 40
    records, report = run(tmp_path, [left + PASSAGE.title() + ". " + right, "Untouched text. " * 30, PASSAGE])
    assert [record["id"] for record in records] == [0, 0, 1]
    assert records[0]["split_id"] == "lambada-0000000001-0000" and "split_id" not in records[2]
    assert "fox" not in (tmp_path / "out.jsonl").read_text()
    assert left.startswith(records[0]["text"]) and right.rstrip().endswith(records[1]["text"].strip())
    assert (report.split, report.trimmed, report.dropped, report.ngrams) == (1, 0, 1, {"lambada": 4})
    rejected = orjson.loads((tmp_path / "out.rejects.jsonl").read_bytes())
    assert rejected["reason"].startswith("nothing-left") and rejected["id"] == 2


def test_common_phrases_stay(tmp_path: Path) -> None:
    documents = [f"Number {i}. " + PASSAGE + ". " + "More text here. " * 40 for i in range(10)]
    assert len(run(tmp_path, documents[:9])[0]) == 9 and "fox" not in (tmp_path / "out.jsonl").read_text()
    # In 10 documents the first n-gram is common; the others start inside it and were never counted.
    _, report = run(tmp_path, documents)
    assert report.common == 1
    records, _ = run(tmp_path, documents, key_threshold=0)
    assert [record["text"] for record in records] == documents


def test_too_many_pieces(tmp_path: Path) -> None:
    document = ("Some clean sentence. " * 40 + PASSAGE + ". ") * 11 + "Some clean sentence. " * 40
    assert run(tmp_path, [document, "Clean. " * 50], max_pieces=11)[1].dropped == 1
    assert run(tmp_path, [document], max_pieces=12)[1].split == 1


@settings(max_examples=150, deadline=None)
@given(text=texts(120), tasks=st.lists(texts(7), min_size=1, max_size=3), chars=st.integers(1, 30))
def test_long_texts_are_searched_in_pieces(text: str, tasks: list[str], chars: int) -> None:
    whole, index = index_of(tasks, 4, 2), index_of(tasks, 4, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lookup, "_TOGETHER_CHARS", chars)
        patch.setattr(lookup, "_LONG_CHARS", chars)
        in_pieces = [suspect.candidates for suspect in index.find(["x", text, "y"])]
    assert in_pieces == [suspect.candidates for suspect in whole.find(["x", text, "y"])]


def test_linear_in_heavily_contaminated_text() -> None:
    index = index_of([PASSAGE])
    config = DecontaminateConfig(tasks=(TASK,))
    document = ("Some clean sentence stands here. " * 20 + PASSAGE + ". ") * 3000  # 2 MB, 3,000 matches
    pieces, found = cut(document, index, config)
    assert len(found) == 3000 and len(pieces) == 3000


def plain_texts(documents: list[str], ngrams: set[str], config: DecontaminateConfig) -> list[str]:
    """The whole rule, read plainly."""
    counts = Counter(ngram for text in documents for ngram in plain_count(text, ngrams, config.max_ngram))
    rare = {ngram for ngram in ngrams if counts[ngram] < config.key_threshold}
    pieces = [plain_cut(text, rare, config) for text in documents]
    return [piece for found in pieces if len(found) <= config.max_pieces for piece in found]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(documents=st.lists(texts(60), min_size=1, max_size=12), tasks=st.lists(texts(7), min_size=1, max_size=4))
def test_the_step_equals_the_plain_rule(tmp_path: Path, documents: list[str], tasks: list[str]) -> None:
    """With blocks of few documents, so that their numbers go on from block to block."""
    source = write(tmp_path / "in.jsonl", documents)
    task = TaskFile(name="lambada", path=str(write(tmp_path / "task.jsonl", [*tasks, "a b c d e"])))
    config = DecontaminateConfig(
        tasks=(task,),
        max_ngram=4,
        min_ngram=2,
        key_threshold=3,
        remove_chars_each_side=3,
        min_piece_chars=3,
        max_pieces=3,
        read=ReadConfig(block_bytes=150),
    )
    report = decontaminate([source], tmp_path / "out.jsonl", config)
    records = [orjson.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines()]
    ngrams = set(task_ngrams([*tasks, "a b c d e"], 4, 2))
    assert [record["text"] for record in records] == plain_texts(documents, ngrams, config)
    assert all(record["split_id"][8:18] == f"{record['id'] + 1:010d}" for record in records if "split_id" in record)
    assert report.documents_out == len(records) and report.documents_in == len(documents)
    assert report.chars_out == sum(len(record["text"]) for record in records)


def contaminated(tmp_path: Path, lines: int = 40) -> Path:
    """Lines of all kinds: contaminated and not, blank, broken, with carriage returns, the last without an end."""
    left, right = "Left sentence here. " * 30, "Right sentence here. " * 30
    rows: list[bytes] = []
    for i in range(lines):
        text = left + (PASSAGE + ". " if i % 4 == 0 else "") + right
        rows.append(orjson.dumps({"id": i, "text": text}))
    rows[5:5] = [b"", b"{broken", b"  "]
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(rows[:20]) + b"\n" + b"\r\n".join(rows[20:]))
    return tmp_path / "in.jsonl"


def settings_of(tmp_path: Path, workers: int = 1) -> DecontaminateConfig:
    task = TaskFile(name="lambada", path=str(write(tmp_path / "task.jsonl", [PASSAGE])))
    return DecontaminateConfig(
        tasks=(task,), key_threshold=100, workers=workers, read=ReadConfig(block_bytes=3000, max_errors=1)
    )


def test_the_same_with_workers_and_shards(tmp_path: Path) -> None:
    source = contaminated(tmp_path)
    for workers in (1, 2):
        report = decontaminate([source], tmp_path / f"{workers}.jsonl", settings_of(tmp_path, workers))
        assert (report.documents_in, report.split, report.bad_lines) == (40, 10, 1)
        assert report.contaminated == {"lambada": 10} and report.documents_out == 50
    output = tmp_path / "shards.jsonl"
    job = decontaminate_job([source], output, settings_of(tmp_path))
    with opened(output, job.fingerprint()) as work:
        for phase in job.phases:
            for rank in (2, 0, 1) if isinstance(phase, Map) else (0,):
                run_phase(phase, work, job.name, rank=rank, world=3)
        assert finish(job, work, SILENT).split == 10
    for name in ("jsonl", "rejects.jsonl"):
        one = (tmp_path / f"1.{name}").read_bytes()
        assert one and one == (tmp_path / f"2.{name}").read_bytes() == (tmp_path / f"shards.{name}").read_bytes()


def test_what_holds_no_ngram_passes_as_it_is(tmp_path: Path) -> None:
    lines = b'{"text" : "caf\\u00e9", "x": 1.50}\n{ "text":"b"}\n'
    (tmp_path / "in.jsonl").write_bytes(lines)
    decontaminate([tmp_path / "in.jsonl"], tmp_path / "out.jsonl", settings_of(tmp_path))
    assert (tmp_path / "out.jsonl").read_bytes() == lines


def test_a_saved_dictionary_does_the_same(tmp_path: Path) -> None:
    source = contaminated(tmp_path)
    saved = tmp_path / "saved.jsonl.gz"
    first = decontaminate([source], tmp_path / "1.jsonl", settings_of(tmp_path), save=saved)
    dictionary = load(saved)
    assert dictionary.tasks == ("lambada",) and sorted(dictionary.documents) == [0, 0, 0, 10]
    config = DecontaminateConfig(dictionary=str(saved), key_threshold=100, read=ReadConfig(max_errors=1))
    again = decontaminate([source], tmp_path / "2.jsonl", config)
    assert (tmp_path / "1.jsonl").read_bytes() == (tmp_path / "2.jsonl").read_bytes()
    assert (first.ngrams, first.matched) == (again.ngrams, again.matched)
    # Its counts hold, not those of the corpus: the first n-gram was in ten documents of that one.
    few = write(tmp_path / "few.jsonl", ["Clean text. " * 50 + PASSAGE])
    other = decontaminate([few], tmp_path / "3.jsonl", replace(config, key_threshold=10))
    assert (first.split, other.common, other.matched) == (10, 1, {"lambada": 1})


def test_several_tasks(tmp_path: Path) -> None:
    other = "a question of nine words about the lazy dog?"
    tasks = (
        TaskFile(name="lambada", path=str(write(tmp_path / "one.jsonl", [PASSAGE]))),
        TaskFile(name="jsonl", path=str(write(tmp_path / "two.jsonl", [PASSAGE, other]))),
    )
    document = "Clean text. " * 50 + other + " Clean text." * 50
    report = decontaminate(
        [write(tmp_path / "in.jsonl", [document, PASSAGE * 2])],
        tmp_path / "out.jsonl",
        DecontaminateConfig(tasks=tasks),
    )
    assert report.ngrams == {"lambada": 4, "jsonl": 1}
    assert report.matched == {"jsonl": 1, "lambada": 1} and report.contaminated == {"jsonl": 1, "lambada": 1}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no saved dictionary"),
        (b'{"text": "a"}\n', "no saved dictionary"),
        (b"\x00\xff", "no saved dictionary"),
        (b'{"format":"mcc decontamination dictionary","version":9}\n', "of version 9, and this is version 1"),
        (b'{"format":"mcc decontamination dictionary","version":1,"tasks":["a"],"ngrams":2}\n', "cut off"),
        (
            b'{"format":"mcc decontamination dictionary","version":1,"tasks":["a"],"ngrams":1,"max_ngram":2,'
            b'"min_ngram":1}\n'
            b'{"task":"b","ngrams":["x"]}\n',
            "damaged",
        ),
    ],
)
def test_bad_dictionaries(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "d.jsonl").write_bytes(content)
    with pytest.raises(MccError, match=rf"d\.jsonl: .*{reason}"):
        load(tmp_path / "d.jsonl")


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'lambada'"):
        TaskFile(name="lambda", path="x")
    with pytest.raises(UsageError, match="no task"):
        DecontaminateConfig()
    with pytest.raises(UsageError, match="exclude each other"):
        DecontaminateConfig(tasks=(TASK,), dictionary="d")
    empty = write(tmp_path / "short.jsonl", ["too short"])
    config = DecontaminateConfig(tasks=(TaskFile(name="jsonl", path=str(empty)),))
    with pytest.raises(MccError, match=r"short\.jsonl: no text of at least 8 words"):
        decontaminate([write(tmp_path / "in.jsonl", ["x"])], tmp_path / "out.jsonl", config)
    assert not (tmp_path / "out.jsonl").exists()
