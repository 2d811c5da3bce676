"""`mcc data index` on the command line: tokens, blends of files, and BERT's sentences."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mcc.cli.main import main
from mcc.data.indexed import IndexedWriter

ITERS = ["--seq-length", "16", "--train-iters", "10", "--global-batch-size", "4", "--eval-iters", "0"]


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    with IndexedWriter(tmp_path / "d", np.uint16) as writer:
        for document in range(30):
            for size in (5, 9, 7, 3):
                writer.add([document] * size, end_document=False)
            writer.end_document()
    return tmp_path / "d"


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main(["data", "index", *map(str, words)])
    out, err = capsys.readouterr()
    return code, out, err


def test_tokens_and_a_table(prefix: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, prefix, *ITERS, "--json")
    (part,) = json.loads(out)["parts"]
    assert code == 0 and part["documents"] == 114 and part["samples"] >= 40  # 95% of 120 sequences
    code, out, _ = run(capsys, prefix, *ITERS)
    assert code == 0 and "114" in out and part["path"] in out


def test_a_blend(prefix: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = run(capsys, "0.25", prefix, "0.75", prefix, *ITERS, "--data-cache-path", tmp_path / "c", "--json")
    parts = json.loads(out)["parts"]
    assert code == 0 and [part["samples"] >= n for part, n in zip(parts, (11, 31, 40), strict=True)] == [True] * 3
    assert parts[2]["samples"] == 40 and not Path(f"{prefix}.samples").exists()
    assert all((Path(part["path"]) / "key.json").is_file() for part in parts)


def test_sentences(prefix: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, prefix, *ITERS, "--bert", "--short-seq-prob", "0.2", "--split", "1", "--json")
    (part,) = json.loads(out)["parts"]
    assert code == 0 and (part["documents"], part["tokens"]) == (30, 720)
    pairs = np.load(Path(part["path"]) / "pairs.npy")
    assert len(pairs) == part["samples"] >= 40 and (pairs[:, 2] <= 13).all()


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--bert-pairs", "none"], "options for sentences without --bert"),
        (["--bert", "--epochs", "1"], "how many samples"),
        (["--all-documents", "--split", "8,1,1"], "all_documents and a split exclude each other"),
        (["--valid-data-path", "held", "--split", "8,1,1"], "valid_data_path and a split exclude each other"),
        (["--short-seq-prob", "2", "--bert"], "short_seq_prob = 2.0 must be between 0 and 1"),
    ],
)
def test_usage(prefix: Path, capsys: pytest.CaptureFixture[str], words: list[str], what: str) -> None:
    code, _, err = run(capsys, prefix, *ITERS, *words)
    assert code == 2 and what in err and "Traceback" not in err


def test_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, _, err = run(capsys, tmp_path / "none", *ITERS)
    assert code == 1 and "no such token index" in err
    code, _, err = run(capsys, "a", "b", *ITERS)
    assert code == 2 and "WEIGHT PREFIX" in err
