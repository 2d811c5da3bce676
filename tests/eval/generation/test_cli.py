"""`mcc eval generate`: prompts from flags, files and stdin; texts, JSON and JSONL; one line for wrong input."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from mcc.cli import eval_generate
from mcc.cli.main import main
from tests.eval.generation.test_generate import theirs


@pytest.fixture(scope="module")
def checkpoint(hf_folder: Path) -> Path:
    return hf_folder


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main(["eval", "generate", *map(str, words)])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_prompt(checkpoint: Path, hf_model: Any, tokenizer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    words = (checkpoint, "--prompt", "The river", "--max-new-tokens", 12)
    code, out, err = run(capsys, *words)
    (expected,) = theirs(hf_model, tokenizer, "The river")
    assert (code, out, err) == (0, f"The river{tokenizer.decode(expected, skip_special=True)}\n", "")
    code, out, _ = run(capsys, *words, "--json")
    report = json.loads(out)
    assert code == 0 and report["new_tokens"] == len(expected) and report["seconds"] > 0
    assert report["texts"][0]["prompt"] == "The river" and report["texts"][0]["new_tokens"] == len(expected)


def test_a_file_of_prompts(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = [{"id": 7, "question": "One"}, {"id": 8, "question": "Another one"}]
    file, out_file = tmp_path / "prompts.jsonl", tmp_path / "out" / "texts.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    words = (checkpoint, "--prompts", file, "--field", "question", "--max-new-tokens", 5, "--out", out_file)
    code, out, _ = run(capsys, *words, "--beams", 3, "--num-samples", 2)
    found = [json.loads(line) for line in out_file.read_text().splitlines()]
    assert code == 0
    assert [(one["id"], one["question"], one["sample"]) for one in found] == [
        (7, "One", 0), (7, "One", 1), (8, "Another one", 0), (8, "Another one", 1)
    ]  # fmt: skip
    assert all(one["score"] <= 0 and one["finish"] in ("eos", "length") for one in found)
    assert found[0]["score"] >= found[1]["score"]
    assert "--- prompt 2, sample 1: " in out and "Another one" + found[2]["text"] in out
    (tmp_path / "lines.txt").write_text("One\n\nAnother one\n")
    code, out, _ = run(capsys, checkpoint, "--prompts", tmp_path / "lines.txt", "--max-new-tokens", 1, "--json")
    assert [one["prompt"] for one in json.loads(out)["texts"]] == ["One", "Another one"]


def test_texts_of_their_own(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Drawn, by default; the seed decides."""
    words = (checkpoint, "--num-samples", 3, "--max-new-tokens", 9, "--json")
    texts = [json.loads(run(capsys, *words, "--seed", seed)[1])["texts"] for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert len({one["text"] for one in texts[0]}) == 3 and texts[0][0]["prompt"] == ""


def test_prompts_are_asked_for(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is too long ends nothing."""
    monkeypatch.setattr("sys.stdin", io.StringIO(f"The river\n\n{'long ' * 60}\na\n"))
    code, out, err = run(capsys, checkpoint, "--max-new-tokens", 4)
    assert code == 0 and "prompt 1: " in err and "more than the model's context of 48" in err
    assert out.startswith("The river") and "\n\na" in out and out.endswith("\n\n") and "long" not in out


def test_a_terminal_gets_no_control_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(shown, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdout", shown)
    eval_generate.write("a\x1b[2J\tü\n")
    assert shown.getvalue() == "a\ufffd[2J\tü\n"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--prompt", "a", "--prompts", "x"], 2, "--prompt with --prompts: which of them?"),
        (["--prompt", "a", "--field", "x"], 2, "--field is of the records of --prompts FILE"),
        (["--prompt", "a", "--codec", "both"], 2, "--codec both would make two sets of texts"),
        (["--prompt", "a", "--codec", "of"], 2, "unknown --codec 'of'; did you mean 'off'?"),
        (["--json"], 2, "--json needs prompts"),
        (["--prompt", "a", "--num-samples", "2"], 2, "greedy continuations of a prompt are all the same"),
        (["--prompt", "a", "--max-new-tokens", "48"], 1, "more than the model's context of 48"),
        (["--prompts", "missing.jsonl"], 1, "no such file of prompts: missing.jsonl"),
        (["--prompts", "empty.jsonl"], 1, "empty.jsonl has no prompt"),
        (["--prompts", "broken.jsonl"], 1, "broken.jsonl:2: not JSON"),
        (["--prompts", "other.jsonl"], 1, "other.jsonl:1: no text 'prompt' (has 'text')"),
        (["--prompts", "bytes.txt"], 1, "bytes.txt is no UTF-8 text"),
    ],
)
def test_wrong_input(
    checkpoint: Path,
    words: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "broken.jsonl").write_text('{"prompt": "a"}\n{"prompt": \n')
    (tmp_path / "other.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\n")
    found, out, err = run(capsys, checkpoint, *words)
    assert found == code and message in err and err.count("error:") == 1 and "Traceback" not in err
    assert out == ""
