"""The published formats of tasks, in miniature, and what is none of them."""

from __future__ import annotations

import contextlib
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from mcc.core.errors import MccError, UsageError
from mcc.data.ngrams.task_texts import TASK_FILES, TaskFile, follow

SQUAD = {"version": "v2.0", "data": [{"title": "t", "paragraphs": [{"context": "c", "qas": [{"question": "q1"}]}]}] * 2}
TRIVIAQA = {"Domain": "Web", "Data": [{"Question": "q1", "QuestionId": "1"}, {"Question": "q2", "QuestionId": "2"}]}
DROP = {"nfl_1": {"passage": "p", "qa_pairs": [{"question": "q1", "answer": {}}, {"question": "q2", "answer": {}}]}}
COQA = {"version": "1.0", "data": [{"story": "s", "questions": [{"input_text": "q1", "turn_id": 1}], "answers": []}]}
WEBQA = [{"url": "u", "targetValue": "(list)", "utterance": "q1"}, {"url": "u", "utterance": "q2"}]
RACE = {"article": "a", "questions": ["q1 _ .", "q2"], "options": [["a"]], "answers": ["A"], "id": "high1.txt"}

# (task, ending, whole JSON or lines of it, the texts)
CASES: list[tuple[str, str, Any, list[str]]] = [
    ("lambada", ".jsonl", [{"text": "a passage"}], ["a passage"]),
    ("squad", ".json", SQUAD, ["q1", "q1"]),
    ("squad", ".jsonl", [{"question": "q1", "context": "c"}], ["q1"]),
    ("natural_questions", ".jsonl", [{"question_text": "q1", "document_text": "d"}], ["q1"]),
    ("natural-questions", ".jsonl", [{"question": "q1", "answer": ["a"]}], ["q1"]),
    ("natural_questions", ".jsonl", [{"question": {"text": "q1", "tokens": ["q1"]}}], ["q1"]),
    ("triviaqa", ".json", TRIVIAQA, ["q1", "q2"]),
    ("triviaqa", ".jsonl", [{"question": "q1"}], ["q1"]),
    ("webqa", ".json", WEBQA, ["q1", "q2"]),
    ("race", ".txt", RACE, ["q1 _ .", "q2"]),
    ("race", ".jsonl", [{"question": "q1", "article": "a"}], ["q1"]),
    ("drop", ".json", DROP, ["q1", "q2"]),
    ("coqa", ".json", COQA, ["q1"]),
    ("coqa", ".jsonl", [{"questions": ["q1", "q2"], "story": "s"}], ["q1", "q2"]),
    ("piqa", ".jsonl", [{"goal": "g", "sol1": "1", "sol2": "2"}], ["g"]),
    ("jsonl", ".jsonl", [{"text": "t"}], ["t"]),
]


def write(path: Path, value: Any) -> Path:
    lines = [value] if path.name.endswith((".json", ".txt")) else value
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.mark.parametrize(("name", "ending", "value", "texts"), CASES)
def test_published_formats(tmp_path: Path, name: str, ending: str, value: Any, texts: list[str]) -> None:
    path = write(tmp_path / f"task{ending}", value)
    assert list(TaskFile(name=name, path=str(path)).texts()) == texts
    packed = tmp_path / f"{path.name}.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert list(TaskFile(name=name, path=str(packed)).texts()) == texts


def test_every_task_has_a_case() -> None:
    assert {name for name, _ in TASK_FILES.all()} - {name.replace("_", "-") for name, *_ in CASES} == {"lm-eval"}


def test_folders_patterns_parquet_and_plain_text(tmp_path: Path) -> None:
    for level in ("high", "middle"):
        (tmp_path / level).mkdir()
        write(tmp_path / level / "1.txt", {**RACE, "questions": [level]})
    assert list(TaskFile(name="race", path=str(tmp_path)).texts()) == ["high", "middle"]
    assert list(TaskFile(name="race", path=str(tmp_path / "*" / "1.txt")).texts()) == ["high", "middle"]
    parquet.write_table(pyarrow.table({"goal": ["g1", "g2"]}), tmp_path / "p.parquet")
    assert list(TaskFile(name="piqa", path=str(tmp_path / "p.parquet")).texts()) == ["g1", "g2"]
    (tmp_path / "plain.txt").write_text('one passage "quoted"\nanother\n')
    assert list(TaskFile(name="lambada", path=str(tmp_path / "plain.txt")).texts()) == [
        'one passage "quoted"',
        "another",
    ]


def test_another_place(tmp_path: Path) -> None:
    path = write(tmp_path / "race.txt", RACE)
    assert list(TaskFile(name="race", path=str(path), key="article").texts()) == ["a"]
    path = write(tmp_path / "deep.jsonl", [{"a": {"b": [{"c": "x"}, {"c": "y"}]}}])
    assert list(TaskFile(name="jsonl", path=str(path), key="a.b[].c").texts()) == ["x", "y"]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("squad.json", b'{"rows": []}', r"squad\.json: no text under data\[\].*\(there is 'rows'\)"),
        ("squad.jsonl", b'{"question": "q"}\n{"question": 3}\n', r"squad\.jsonl:2: no text under"),
        ("squad.jsonl", b'{"question": "q"}\n{"question": \n', r"squad\.jsonl:2: not JSON"),
        ("squad.json", b"[1, 2]", r"squad\.json\[0\]: no text .* \(there is no object\)"),
        ("squad.txt", b"caf\xe9\n", r"squad\.txt:1: not UTF-8 at byte 4"),
        ("squad.json.gz", gzip.compress(b"{}" * 99, mtime=0)[:-9], r"squad\.json\.gz: .*(truncated|cannot be read)"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MccError, match=reason):
        list(TaskFile(name="squad", path=str(tmp_path / name)).texts())


def test_what_is_no_task_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs a file"):
        TaskFile(name="squad")
    with pytest.raises(UsageError, match=r"unknown format '\.csv'"):
        (tmp_path / "a.csv").write_text("a,b")
        list(TaskFile(name="squad", path=str(tmp_path / "a.csv")).texts())
    with pytest.raises(MccError, match="has no files"):
        (tmp_path / "empty").mkdir()
        list(TaskFile(name="race", path=str(tmp_path / "empty")).texts())


JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=3), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
)


@settings(max_examples=300, deadline=None)
@given(value=JSON, content=st.binary(max_size=60))
def test_anything_ends_in_texts_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, value: Any, content: bytes
) -> None:
    for place in ("data[].paragraphs[].qas[].question", "*.qa_pairs[].question", "text", "a[].b"):
        assert all(isinstance(text, str) for text in follow(value, place))
    path = tmp_path_factory.getbasetemp() / "fuzz.json"
    path.write_bytes(content)
    with contextlib.suppress(MccError):
        assert all(isinstance(text, str) for text in TaskFile(name="jsonl", path=str(path)).texts())


def test_a_task_of_the_harness(tmp_path: Path) -> None:
    rows = [{"q": f"What is the {i}th question?", "choices": ["yes", "no"], "answer": 0} for i in range(3)]
    data = write(tmp_path / "data.jsonl", rows)
    common = f"""dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_choice: choices
doc_to_target: answer
"""
    (tmp_path / "one.yaml").write_text(f'{common}task: mcc_one\ndoc_to_text: "Q: {{{{q}}}}"\n')
    query = 'should_decontaminate: true\ndoc_to_decontamination_query: "{{q}} "\n'
    (tmp_path / "two.yaml").write_text(f'{common}task: mcc_two\ndoc_to_text: "Q: {{{{q}}}}"\n{query}')
    expected = [row["q"] for row in rows]
    assert list(TaskFile(name="lm-eval:mcc_one", path=str(tmp_path)).texts()) == [f"Q: {text}" for text in expected]
    assert [text.strip() for text in TaskFile(name="lm-eval:mcc_two", path=str(tmp_path)).texts()] == expected
    assert list(TaskFile(name="lm-eval:mcc_one", path=str(tmp_path), key="choices[]").texts()) == ["yes", "no"] * 3
    data.unlink()
    with pytest.raises(MccError, match="task lm-eval:mcc_one"):
        list(TaskFile(name="lm-eval:mcc_one", path=str(tmp_path)).texts())
