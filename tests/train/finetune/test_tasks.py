"""Tasks from files as their authors distribute them, and as lines of JSON."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcc.core.errors import MccError, UsageError
from mcc.train.config import DataConfig, TrainConfig
from mcc.train.finetune.config import FinetuneConfig
from mcc.train.finetune.files import Examples, scored_files, training_files
from mcc.train.finetune.metrics import METRICS, score
from mcc.train.finetune.resolve import resolve
from mcc.train.finetune.task import find_task, task_families, task_names

MNLI_HEAD = [*(f"column {i}" for i in range(8)), "sentence1", "sentence2", "label1", "gold_label"]
STSB_HEAD = [*(f"column {i}" for i in range(7)), "sentence1", "sentence2", "score"]
# task -> (a training file as GLUE has it, rows, label), and a line of JSON that says the same
GLUE: dict[str, tuple[list[list[str]], list[str | None], float, dict[str, Any]]] = {
    "cola": ([["gj04", "0", "*", "A b."]], ["A b.", None], 0, {"sentence": "A b.", "label": 0}),
    "sst2": ([["sentence", "label"], ["fine", "1"]], ["fine", None], 1, {"sentence": "fine", "label": 1}),
    "mrpc": (
        [["Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"], ["1", "5", "6", 'a "b', "c"]],
        ['a "b', "c"],
        1,
        {"sentence1": 'a "b', "sentence2": "c", "label": 1},
    ),
    "stsb": (
        [STSB_HEAD, ["0", "g", "f", "2012", "1", "n", "n", "a", "b", "3.2"]],
        ["a", "b"],
        3.2,
        {"sentence1": "a", "sentence2": "b", "label": 3.2},
    ),
    "qqp": (
        [["id", "qid1", "qid2", "question1", "question2", "is_duplicate"], ["1", "2", "3", "a?", "b?", "0"]],
        ["a?", "b?"],
        0,
        {"question1": "a?", "question2": "b?", "label": 0},
    ),
    "mnli": (
        [MNLI_HEAD, ["0", "1", "2", "g", "", "", "", "", "a", "b", "neutral", "neutral"]],
        ["a", "b"],
        2,
        {"premise": "a", "hypothesis": "b", "label": 1},
    ),
    "qnli": (
        [["index", "question", "sentence", "label"], ["0", "q?", "s", "not_entailment"]],
        ["q?", "s"],
        1,
        {"question": "q?", "sentence": "s", "label": 1},
    ),
    "rte": (
        [["index", "sentence1", "sentence2", "label"], ["0", "a", "b", "entailment"]],
        ["a", "b"],
        0,
        {"sentence1": "a", "sentence2": "b", "label": 0},
    ),
    "wnli": (
        [["index", "sentence1", "sentence2", "label"], ["0", "a", "b", "1"]],
        ["a", "b"],
        1,
        {"sentence1": "a", "sentence2": "b", "label": 1},
    ),
}


def config(task: str, data: Path, **values: Any) -> FinetuneConfig:
    return FinetuneConfig(task=task, task_data=str(data), **values)


def opened(settings: FinetuneConfig, **values: Any) -> Examples:
    task = find_task(settings)
    return Examples(training_files(task, settings), task, **values)


@pytest.mark.parametrize("name", GLUE)
def test_glue(tmp_path: Path, name: str) -> None:
    lines, texts, label, record = GLUE[name]
    (tmp_path / "train.tsv").write_text("".join("\t".join(line) + "\r\n" for line in lines), encoding="utf-8")
    (tmp_path / "lines.jsonl").write_text(json.dumps(record) + "\n", encoding="utf-8")
    for data in (tmp_path, tmp_path / "lines.jsonl"):
        examples = opened(config(name, data))
        assert len(examples) == 1
        assert examples[0].rows == (tuple(texts),)
        assert examples[0].label == label
    task = find_task(config(name, tmp_path))
    assert set(task.metrics) <= set(METRICS) and task.rows == 1


def test_names() -> None:
    assert {"cola", "sst-2", "mrpc", "sts-b", "qqp", "mnli", "qnli", "rte", "wnli", "race"} <= set(task_names())
    for _, family in task_families.all():
        assert family.__doc__ and family().names()
    with pytest.raises(UsageError, match="unknown task 'mrcp'; did you mean 'mrpc'"):
        find_task(config("mrcp", Path()))
    assert find_task(config("STS-B", Path())).name == "stsb"
    assert find_task(config("mrpc", Path(), task_metrics="f1, matthews")).metrics == ("f1", "matthews")


def test_the_real_mrpc() -> None:
    root = os.environ.get("MCC_TEST_DATA")
    if root is None:
        pytest.skip("MCC_TEST_DATA is not set")
    settings = config("mrpc", Path(root) / "mrpc")
    task = find_task(settings)
    assert len(opened(settings)) >= 4076
    (valid,) = scored_files(task, settings).values()
    examples = Examples(valid, task)
    labels = np.array([examples[i].label for i in range(len(examples))])
    assert (len(labels), int(labels.sum())) == (1725, 1147)
    # The well-known figures of saying yes to everything: 66.5% and F1 79.9.
    yes = np.tile([0.0, 1.0], (len(labels), 1))
    assert score(task.metrics, yes, labels) == pytest.approx({"accuracy": 0.6649, "f1": 0.7987}, abs=1e-4)
    assert examples[0].rows[0][0].startswith("PCCW's chief operating officer")


def test_race(tmp_path: Path) -> None:
    article = {
        "article": "Tom ran.",
        "questions": ["Tom _ .", "Who ran?"],
        "options": [["ran", "sat", "ate", "slept"], ["Al", "Bo", "Cy", "Tom"]],
        "answers": ["A", "D"],
    }
    for part, school in (("train", "high"), ("train", "middle"), ("dev", "high")):
        folder = tmp_path / part / school
        folder.mkdir(parents=True)
        for name in ("1.txt", "2.txt"):
            (folder / name).write_text(json.dumps(article), encoding="utf-8")
    examples = opened(config("race", tmp_path))
    assert len(examples) == 8
    assert examples[0].rows[:2] == (("Tom ran .", "Tom ran."), ("Tom sat .", "Tom ran."))
    assert examples[1].rows[3] == ("Who ran? Tom", "Tom ran.")
    assert [examples[i].label for i in range(4)] == [0, 3, 0, 3]
    assert len(opened(config("race-middle", tmp_path))) == 4
    settings = config("race", tmp_path)
    assert [len(paths) for paths in scored_files(find_task(settings), settings).values()] == [2]
    line = {"article": "Tom ran.", "question": "Who?", "options": ["a", "b", "c", "d"], "answer": "C"}
    (tmp_path / "x.jsonl").write_text(json.dumps(line), encoding="utf-8")
    assert opened(config("race", tmp_path / "x.jsonl"))[0].label == 2


def test_ones_own_columns(tmp_path: Path) -> None:
    file = tmp_path / "mine.tsv"
    file.write_text("kind\tbody\nbad\tno good\ngood\tvery good\n", encoding="utf-8")
    settings = config("classification", file, text_a="body", label="kind", labels="bad,good")
    examples = opened(settings)
    assert [(examples[i].rows, examples[i].label) for i in range(2)] == [
        ((("no good", None),), 0),
        ((("very good", None),), 1),
    ]
    assert scored_files(find_task(settings), settings) == {}
    file.write_text('{"text": "x", "stars": 2.5}\n', encoding="utf-8")
    settings = config("classification", file, text_a="text", label="stars")
    assert opened(settings)[0].label == 2.5
    assert find_task(settings).metrics == ("pearson", "spearman")
    with pytest.raises(UsageError, match="needs the column of the text"):
        find_task(config("classification", file))
    with pytest.raises(UsageError, match="two or more different names"):
        find_task(config("classification", file, text_a="text", labels="a,a"))


def test_ones_own_choices(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text(
        json.dumps({"context": "c", "question": "q", "choices": ["a", "b"], "label": "1"}), encoding="utf-8"
    )
    settings = config("multiple-choice", file, labels="A,B")
    example = opened(settings)[0]
    assert example.rows == (("c", "q a"), ("c", "q b")) and example.label == 1
    with pytest.raises(MccError, match=r"mine.jsonl:1: choices are not a list of 4"):
        opened(config("multiple-choice", file))


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("1\t5\t6\tonly one", "4 columns, not 5"),
        ("2\t5\t6\ta\tb", "label '2' is none of not_equivalent, equivalent"),
        ("1\t5\t6\t \tb", "column #1 String or sentence1 is not a text"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: str, what: str) -> None:
    head = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"
    (tmp_path / "train.tsv").write_text(f"\ufeff{head}\n1\t5\t6\ta\tb\n\n{line}\n0\t5\t6\tc\td\n", encoding="utf-8")
    with pytest.raises(MccError) as found:
        opened(config("mrpc", tmp_path))
    assert found.value.what == f"{tmp_path / 'train.tsv'}:4: {what}"
    warnings: list[str] = []

    class Listener:
        def warn(self, text: str) -> None:
            warnings.append(text)

    examples = opened(config("mrpc", tmp_path), max_errors=1, reporter=Listener())
    assert [examples[i].label for i in range(len(examples))] == [1, 0]
    assert "1 bad lines left out" in warnings[0] and what in warnings[0]


def test_other_mistakes(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text("a\tb\n1\t2\n", encoding="utf-8")
    with pytest.raises(MccError, match=r"train.tsv:1: no column .*sentence1"):
        opened(config("rte", tmp_path))
    (tmp_path / "x.jsonl").write_text("{oops\n", encoding="utf-8")
    with pytest.raises(MccError, match=r"x.jsonl:1: not JSON"):
        opened(config("rte", tmp_path / "x.jsonl"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"has none of train.tsv, train.jsonl"):
        opened(config("rte", tmp_path / "empty"))
    with pytest.raises(UsageError, match="--text-a has no effect: task rte knows its columns"):
        find_task(config("rte", tmp_path, text_a="x"))
    with pytest.raises(UsageError, match="exclude each other"):
        resolve(TrainConfig(data=DataConfig(data_path="x"), finetune=config("rte", tmp_path)))
    with pytest.raises(UsageError, match="--task-data without a task"):
        FinetuneConfig(task_data="x")
    with pytest.raises(UsageError, match="needs its files"):
        FinetuneConfig(task="mrpc")
