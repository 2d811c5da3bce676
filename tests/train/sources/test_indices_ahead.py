"""`mcc data index` builds what `mcc train` looks for: a run with the same options then builds nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mcc.cli.main import main
from mcc.core.config import resolve
from mcc.data.indexed import IndexedWriter
from mcc.train.config import TrainConfig
from mcc.train.prepare import prepare

MODEL = {"num_layers": 1, "hidden_size": 8, "num_attention_heads": 2, "vocab_size": 50}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for name in ("a", "b", "v"):
        with IndexedWriter(tmp_path / name, np.uint16) as writer:
            for _ in range(30):
                writer.add(generator.integers(0, 50, size=40))
    return tmp_path


def _built(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("key.json")}


RAMP = ["--global-batch-size", "8", "--rampup-batch-size", "2", "2", "25"]
CASES = {
    "ramp": ["--train-iters", "11", *RAMP],
    "samples": ["--train-samples", "37", "--global-batch-size", "8"],
    "samples-ramp": ["--train-samples", "37", *RAMP, "--eval-iters", "3", "--seed", "5", "--split", "80,20"],
    "held-out": ["--train-samples", "37", *RAMP, "--valid-data-path", "0.5", "V", "0.5", "B"],
    "no-evaluation": ["--train-iters", "3", "--eval-iters", "0", "--valid-data-path", "V"],
}


def _values(words: list[str]) -> dict[str, object]:
    """The settings of the flags `words`."""
    found: dict[str, object] = {}
    values: dict[str, list[str]] = {}
    for word in words:
        if word.startswith("--"):
            last = values.setdefault(word[2:].replace("-", "_"), [])
        else:
            last.append(word)
    for name, given in values.items():
        section = "data" if name in ("split", "valid_data_path", "data_path") else "run"
        if name == "rampup_batch_size":
            found[f"{section}.{name}"] = tuple(map(int, given))
        else:
            found[f"{section}.{name}"] = " ".join(given) if section == "data" else int(given[0])
    return found


@pytest.mark.parametrize("blend", [["A"], ["0.3", "A", "0.7", "B"]], ids=["file", "blend"])
@pytest.mark.parametrize("case", CASES)
def test_a_run_finds_all_its_indices(files, monkeypatch, case, blend):
    names = {name.upper(): str(files / name) for name in ("a", "b", "v")}
    words = [names.get(word, word) for word in CASES[case]]
    paths = [names.get(word, word) for word in blend]
    assert main(["data", "index", *paths, *words, "--seq-length", "16"]) == 0
    built = _built(files)
    assert built
    for name in ("build_indices", "build_blend"):
        monkeypatch.setattr(f"mcc.data.training.open.{name}", None)
    settings = _values([*words, "--data-path", *paths]) | {f"model.{k}": v for k, v in MODEL.items()}
    settings |= {"model.seq_length": 16, "run.micro_batch_size": 1}
    prepare(resolve(TrainConfig, None, settings), 1)
    assert _built(files) == built
