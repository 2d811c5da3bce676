"""`mcc train --list-models` and `--model`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mcc.cli.train import app
from mcc.models.base import presets
from mcc.models.base.family import families


def run(*args: str) -> str:
    result = CliRunner().invoke(app, list(args), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_models_are_listed_with_their_sizes() -> None:
    listed = {entry["model"]: entry for entry in json.loads(run("--list-models", "--json"))}
    assert list(listed) == presets.names()
    # What transformers counts in the families' classes of these sizes.
    assert listed["gpt2"]["parameters"] == 124_439_808
    assert listed["bert-base"]["parameters"] == 110_106_428
    assert listed["llama-3-8b"]["parameters"] == 8_030_261_248
    assert listed["mistral-7b"]["parameters"] == 7_241_732_096
    assert listed["qwen2-0.5b"]["parameters"] == 494_032_768
    assert listed["qwen2-7b"]["parameters"] == 7_615_616_512
    assert listed["opt-125m"]["parameters"] == 125_239_296
    assert listed["pythia-160m"]["parameters"] == 162_322_944
    assert listed["roberta-base"]["parameters"] == 124_697_433
    assert listed["gpt3-175b"]["parameters"] == pytest.approx(175e9, rel=0.01)
    assert {entry["family"] for entry in listed.values()} == set(families.names())
    text = run("--list-models")
    assert "8,030,261,248" in text and "arXiv 1909.08053" in text


@pytest.mark.parametrize("name", presets.names())
def test_every_model_can_be_built(name: str) -> None:
    config = presets.preset(name)
    families.get(config.family)().check(config)
    config.require_tp(1)
    assert presets.source(name)


def test_file_and_flags_come_on_top(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("[model]\nnum_layers = 6\nhidden_dropout = 0.2\n")
    model = json.loads(run(str(file), "--model", "bert-base", "--hidden-dropout", "0", "--show-config"))["model"]
    assert (model["family"], model["head"], model["hidden_size"]) == ("bert", "pretraining", 768)
    assert (model["num_layers"], model["hidden_dropout"], model["attention_dropout"]) == (6, 0.0, 0.1)


def test_an_unknown_model_is_refused_by_name() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mcc", "train", "--model", "gpt2-354m"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "unknown model 'gpt2-354m'; did you mean 'gpt2-345m'?" in done.stderr


def test_megatrons_names_of_the_parallel_sizes() -> None:
    names = ("--tensor-model-parallel-size", "--pipeline-model-parallel-size", "--context-parallel-size")
    given = [part for name, size in zip(names, (2, 3, 4), strict=True) for part in (name, str(size))]
    parallel = json.loads(run(*given, "--sequence-parallel", "--show-config"))["parallel"]
    assert (parallel["tp"], parallel["pp"], parallel["cp"], parallel["sequence_parallel"]) == (2, 3, 4, True)
