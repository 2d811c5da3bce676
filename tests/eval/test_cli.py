"""`mcc eval` on a Hugging Face folder: results, files, and one line for every kind of wrong input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mcc.ckpt.format import formats
from mcc.cli.main import main
from mcc.models.base.config import ModelConfig
from tests.ckpt.models import InMemory


@pytest.fixture(scope="module")
def checkpoint(hf_folder: Path) -> Path:
    return hf_folder


@pytest.fixture
def task_file(jsonl: Callable[..., Path], passages: list[str]) -> Path:
    return jsonl([{"text": text} for text in passages])


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main(["eval", *map(str, words)])
    out, err = capsys.readouterr()
    return code, out, err


def test_zero_shot(
    checkpoint: Path, task_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], jsonl: Callable[..., Path]
) -> None:
    piqa = jsonl([{"goal": "a", "sol1": "b", "sol2": "c", "label": 1}] * 2, "piqa.jsonl")
    words = ("zero-shot", checkpoint, "--tasks", "lambada,piqa", "--task-file", f"lambada={task_file}")
    words = (*words, "--task-file", f"piqa={piqa}", "--limit", 9, "--out", tmp_path / "out")
    code, out, err = run(capsys, *words, "--json")
    assert code == 0
    assert err == "warning: 7 of 9 requests are longer than the model's context of 48: their beginnings are not read\n"
    report = json.loads(out)
    assert report["results"]["lambada"]["samples"] == 9
    assert report["results"]["piqa"]["metrics"]["acc"]["stderr"] is not None
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == report
    code, out, _ = run(capsys, *words)
    assert code == 0
    rows = [line.split() for line in out.splitlines()]
    assert ["piqa", "2", "0", "acc"] in [row[:4] for row in rows]


def test_perplexity(checkpoint: Path, corpus: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "text.txt"
    file.write_text(corpus[:1500])
    code, out, err = run(capsys, "perplexity", checkpoint, file, "--overlap", 16, "--word-level", "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert (report["overlap"], report["context"], report["words"]) == (16, 48, len(corpus[:1500].split()))
    code, out, _ = run(capsys, "perplexity", checkpoint, file, "--no-word-level")
    assert code == 0 and "perplexity of a token" in out and "of a word" not in out


def test_flags_without_effect(checkpoint: Path, task_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flags in (("--overlap", 4), ("--detokenize", "wikitext"), ("--no-word-level",)):
        code, out, err = run(capsys, "perplexity", checkpoint, task_file, "--lambada", "both", *flags)
        assert (code, out) == (2, "") and f"error: {flags[0]} with --lambada" in err


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (("--tasks", "lamda", "--task-file", "lamda=FILE"), 2, "unknown task 'lamda'; did you mean 'lambada'?"),
        (("--tasks", ","), 2, "--tasks names no task"),
        (("--tasks", "piqa,lambada", "--task-file", "FILE"), 2, "which of piqa, lambada?"),
        (("--tasks", "piqa", "--task-file", "FILE"), 1, ":1: no field 'goal' (has 'text')"),
        (("--tasks", "lambada", "--task-file", "none.jsonl"), 1, "no such task file: none.jsonl"),
        (("--tasks", "lambada", "--task-file", "FILE", "--num-fewshot", "40"), 1, "has 40 documents: too few"),
        (("--tasks", "lambada", "--task-file", "FILE", "--limit", "0"), 2, "--limit"),
        (("--tasks", "lambada", "--task-file", "FILE", "--tokenizer", "none.json"), 1, "no such tokenizer: none.json"),
        (("--tasks", "lambada", "--task-file", "FILE", "--device", "gpu"), 2, "no device 'gpu'"),
        (("--tasks", "lambada", "--task-file", "FILE", "--device", "meta"), 2, "no device 'meta'"),
    ],
)
def test_wrong_input_is_one_line(
    checkpoint: Path,
    task_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    code: int,
    line: str,
) -> None:
    filled = [word.replace("FILE", str(task_file)) for word in words]
    got, out, err = run(capsys, "zero-shot", checkpoint, *filled, "--out", tmp_path / "out")
    assert (got, out) == (code, "")
    errors = [text for text in err.splitlines() if text.startswith("error: ")]
    assert len(errors) == 1 and line in errors[0]
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_a_model_that_does_not_predict_the_next_token_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = ModelConfig(family="bert", num_layers=1, hidden_size=8, num_attention_heads=2, seq_length=8, vocab_size=10)
    formats.get("mcc-safetensors")().write(InMemory(config), tmp_path / "bert")
    code, _, err = run(capsys, "perplexity", tmp_path / "bert", __file__)
    assert code == 1
    assert "is a bert with the head lm: it does not predict the next token" in err
