"""`mcc bench eval`: the same scores, and what it prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mcc.cli.main import main
from mcc.eval.bench import write_questions
from mcc.eval.task import read_documents, tasks


def test_both_contestants(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "eval", "--documents", "2", "--prompts", "2", "--new-tokens", "5", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ours"]["metrics"] == found["theirs"]["metrics"]
    assert found["ours"]["requests"] == 8 and found["difference"] < 1e-4
    assert found["generation"]["same"] == 2 and found["generation"]["new_tokens"] == 5
    assert found["speedup"] == found["theirs"]["seconds"] / found["ours"]["seconds"]


def test_questions(tmp_path: Path) -> None:
    write_questions(tmp_path / "a.jsonl", 5)
    write_questions(tmp_path / "b.jsonl", 5)
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    documents = read_documents(tasks.get("hellaswag")(), tmp_path / "a.jsonl")
    assert len(documents) == 5 and all(len(document["endings"]) == 4 for document in documents)
