"""The commands that order, number and join documents, and the options of `decontaminate`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mcc.cli.main import main
from tests.data.conftest import Write, read

Run = Callable[..., Any]
PASSAGE = "the quick brown fox jumps over the lazy dog while seven wizards watch quietly from afar"
CLEAN = "Some clean sentence stands here. " * 30


@pytest.fixture
def mcc_data(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `mcc data ARGS --json` and give the JSON; with `fails=CODE` give the error's lines instead."""

    def run(*args: object, fails: int = 0) -> Any:
        code = main(["data", *map(str, args), "--json"])
        out, err = capsys.readouterr()
        assert code == fails, err
        if not fails:
            return json.loads(out)
        lines = err.splitlines()
        assert lines[0].startswith("error: ") and len(lines) <= 2 and "Traceback" not in err
        return err

    return run


def test_shuffle_ids_and_concat(mcc_data: Run, jsonl: Write, tmp_path: Path) -> None:
    path = jsonl("in.jsonl", [{"body": f"text {i}"} for i in range(50)])
    key = ("--text-key", "body")
    assert mcc_data("shuffle", path, "-o", tmp_path / "s.jsonl.gz", *key, "--workers", 2)["documents_out"] == 50
    report = mcc_data("concat", path, tmp_path / "s.jsonl.gz", "-o", tmp_path / "c.jsonl", "--key", "body=text")
    assert report["documents_out"] == 100
    named = ("ids", tmp_path / "c.jsonl", "-o", tmp_path / "n.jsonl", "--id-key", "n", "--id-prefix", "w", "--width", 3)
    assert mcc_data(*named)["replaced"] == 0
    assert [record["n"] for record in read(tmp_path / "n.jsonl")] == [f"w-{i:03d}" for i in range(1, 101)]
    assert [record["text"] for record in read(tmp_path / "n.jsonl")][:50] == [f"text {i}" for i in range(50)]
    assert mcc_data("ids", tmp_path / "n.jsonl", "-o", tmp_path / "m.jsonl", "--id-key", "n")["replaced"] == 100
    apart = mcc_data("holdout", tmp_path / "c.jsonl", "-o", tmp_path / "t.jsonl", "--held-out", tmp_path / "h.jsonl.gz")
    assert apart["documents_out"] + apart["held_out"] == 100


def test_parquet_goes_in_and_out(mcc_data: Run, jsonl: Write, tmp_path: Path) -> None:
    path = jsonl("in.jsonl", [{"text": "one", "n": 1}, {"text": "two", "n": 2}])
    for name, source in (("a.parquet", path), ("b.jsonl", tmp_path / "a.parquet")):
        assert mcc_data("concat", source, "-o", tmp_path / name)["documents_out"] == 2
    assert read(tmp_path / "b.jsonl") == read(path)


def test_wrong_options(mcc_data: Run, jsonl: Write, tmp_path: Path) -> None:
    path, out = jsonl("in.jsonl", [PASSAGE]), tmp_path / "o.jsonl"
    assert "give OLD=NEW" in mcc_data("concat", path, "-o", out, "--key", "text", fails=2)
    assert "cannot hold the id" in mcc_data("ids", path, "-o", out, "--id-key", "text", fails=2)
    assert "must be at least 1" in mcc_data("shuffle", path, "-o", out, "--workers", 0, fails=2)
    assert "both input and output" in mcc_data("ids", path, "-o", path, fails=2)
    assert "end its name with one of" in mcc_data("concat", path, "-o", tmp_path / "o.csv", fails=2)
    cut = ("decontaminate", path, "-o", out)
    assert "no task to decontaminate against" in mcc_data(*cut, fails=2)
    assert "1 --task but 0 --task-file" in mcc_data(*cut, "--task", "squad", fails=2)
    assert "did you mean 'squad'" in mcc_data(*cut, "--task", "squat", "--task-file", path, fails=2)
    assert "no such dictionary" in mcc_data(*cut, "--load-dictionary", tmp_path / "none", fails=1)
    both = ("--task", "lambada", "--task-file", path, "--load-dictionary", path)
    assert "exclude each other" in mcc_data(*cut, *both, fails=2)
    assert "its own --max-ngram" in mcc_data(*cut, "--load-dictionary", path, "--max-ngram", 9, fails=2)
    assert not out.exists()


def test_decontaminate_against_several_tasks(mcc_data: Run, jsonl: Write, tmp_path: Path) -> None:
    question = "who watched the ferry leave the harbour that morning?"
    squad = {"data": [{"paragraphs": [{"qas": [{"question": question}]}]}]}
    (tmp_path / "dev.json").write_text(json.dumps(squad))
    other = jsonl("other.jsonl", [{"a": {"b": [PASSAGE]}}])
    path = jsonl("in.jsonl", [CLEAN + PASSAGE + ". " + CLEAN, CLEAN, CLEAN + question + " " + CLEAN])
    saved = tmp_path / "saved.jsonl.zst"
    tasks = ("--task", "squad", "--task-file", tmp_path / "dev.json", "--task", "jsonl", "--task-file", other)
    keys = ("--task-key", "data[].paragraphs[].qas[].question", "--task-key", "a.b[]")
    report = mcc_data(
        "decontaminate", path, "-o", tmp_path / "1.jsonl", *tasks, *keys, "--save-dictionary", saved, "--workers", 2
    )
    assert report["ngrams"] == {"squad": 1, "jsonl": 4} and report["contaminated"] == {"jsonl": 1, "squad": 1}
    assert report["documents_out"] == 5 and str(saved) in report["outputs"]
    mcc_data("decontaminate", path, "-o", tmp_path / "2.jsonl", "--load-dictionary", saved)
    assert (tmp_path / "1.jsonl").read_bytes() == (tmp_path / "2.jsonl").read_bytes()
    assert read(tmp_path / "1.jsonl")[0]["split_id"] == "squad-jsonl-0000000001-0000"
