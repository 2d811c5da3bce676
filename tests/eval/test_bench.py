"""`mcc bench eval`: the same scores, and what it prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mcc.cli.main import main
from mcc.eval import bench
from mcc.eval.bench import write_questions
from mcc.eval.task import read_documents, tasks


def in_this_process(folder: Path, order: dict[str, Any]) -> dict[str, Any]:
    """A contestant, without a Python of its own."""
    order = json.loads(json.dumps({**order, "out": str(folder / "timing.json")}))
    bench._generate(order) if "texts" in order else bench._run(order)
    found: dict[str, Any] = json.loads((folder / "timing.json").read_text())
    return found


@pytest.mark.parametrize("own", [pytest.param(True, marks=pytest.mark.slow), False], ids=["processes", "here"])
def test_both_contestants(own: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if not own:
        monkeypatch.setattr(bench, "_contestant", in_this_process)
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
