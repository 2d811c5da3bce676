"""Decontamination against a plain reading of the rule, which re-reads every piece from its start."""

from __future__ import annotations

import re
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcc.core.errors import MccError, UsageError
from mcc.data.contamination import SuspectDocument
from mcc.data.decontaminate import DecontaminateConfig, TaskFile, decontaminate
from mcc.data.dictionary import task_ngrams
from mcc.data.ngrams import NgramIndex

TASK = TaskFile(name="lambada", path="unused")


def index_of(tasks: list[str], top: int = 13, low: int = 8) -> NgramIndex:
    return NgramIndex({ngram: i for i, ngram in enumerate(dict.fromkeys(task_ngrams(tasks, top, low)))}, top)


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


def test_linear_in_heavily_contaminated_text() -> None:
    index = index_of([PASSAGE])
    config = DecontaminateConfig(tasks=(TASK,))
    document = ("Some clean sentence stands here. " * 20 + PASSAGE + ". ") * 3000  # 2 MB, 3,000 matches
    pieces, found = cut(document, index, config)
    assert len(found) == 3000 and len(pieces) == 3000


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'lambada'"):
        TaskFile(name="lambda", path="x")
    with pytest.raises(UsageError, match="no task"):
        DecontaminateConfig()
    empty = write(tmp_path / "short.jsonl", ["too short"])
    config = DecontaminateConfig(tasks=(TaskFile(name="jsonl", path=str(empty)),))
    with pytest.raises(MccError, match=r"short\.jsonl: no text of at least 8 words"):
        decontaminate([write(tmp_path / "in.jsonl", ["x"])], tmp_path / "out.jsonl", config)
    assert not (tmp_path / "out.jsonl").exists()
