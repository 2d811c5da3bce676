"""Fine-tuning on labelled texts from the command line: a table of scores, an epoch a line, also after a resume."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mcc.data.tokens.vocabulary import word_piece

MODEL = ("--family", "bert", "--num-layers", "1", "--hidden-size", "16", "--num-attention-heads", "2")
TASK = ("--task", "classification", "--text-a", "text", "--labels", "no,yes", "--task-metrics", "accuracy,f1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("task")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"]
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in words))
    (folder / "tokenizer.json").write_text(word_piece(folder / "vocab.txt", lowercase=True).to_str())
    for name, count in (("train", 12), ("dev", 5)):
        lines = [json.dumps({"text": "ab"[i % 2] + " b a", "label": ("no", "yes")[i % 2]}) for i in range(count)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def tune(folder: Path, save: Path, *more: str) -> str:
    files = ["--task-data", folder, "--tokenizer", folder / "tokenizer.json", "--save", save]
    sizes = ["--micro-batch-size", "4", "--global-batch-size", "4", "--save-interval", "3"]
    command = [sys.executable, "-m", "mcc", "train", *TASK, *map(str, files), *sizes, *more]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_scores_of_every_epoch(folder: Path, tmp_path: Path) -> None:
    found = json.loads(tune(folder, tmp_path / "run", *MODEL, "--seq-length", "16", "--epochs", "2", "--json"))
    assert [(line["step"], line["epoch"]) for line in found["scores"]] == [(3, 1.0), (6, 2.0)]
    assert all(line.keys() == {"step", "epoch", "valid_loss", "valid_accuracy", "valid_f1"} for line in found["scores"])
    assert found["valid_f1"] == found["scores"][-1]["valid_f1"] and "epoch" not in found
    # The same command begins and continues: the model's sizes are those of --load's.
    text = tune(folder, tmp_path / "run", "--load", str(tmp_path / "run/iter_0000003"), "--epochs", "3", "--resume")
    _title, columns, *lines = text[text.index("Scores") :].splitlines()
    assert columns.split() == ["step", "epoch", "valid_loss", "valid_accuracy", "valid_f1"]
    assert [line.split()[:2] for line in lines] == [["3", "1"], ["6", "2"], ["9", "3"]]
