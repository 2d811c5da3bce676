"""docs/checkpoints.md: its tour is run command by command, and prints what the page shows."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from mcc.ckpt.format import WriteOptions, formats
from mcc.cli.main import main
from mcc.models.base.config import ModelConfig
from tests.ckpt.cells import PAGE
from tests.ckpt.models import InMemory, byte_tokenizer

# Of random weights, and so not the page's: what a model computes, and how it is rounded.
_OF_WEIGHTS = ("verify", "diff")
_NUMBER = re.compile(r"\b\d+(\.\d+)?(e-\d+)?\b")


def run_of_the_page(folder: Path) -> None:
    """A checkpoint like that of the run that the page is about, but with random weights."""
    config = ModelConfig(
        num_layers=4, hidden_size=128, num_attention_heads=4, ffn_hidden_size=512, seq_length=64, vocab_size=2000,
    )  # fmt: skip
    tokenizer = byte_tokenizer(folder.parent / "tokenizer.json")
    source = InMemory(config, slots=("exp_avg", "exp_avg_sq"), iteration=20, tokenizer=tokenizer)
    source.meta = dataclasses.replace(source.meta, extra={"consumed_samples": 320})
    formats.get("mcc")().write(source, folder, WriteOptions(tp=2, pp=2))
    described = folder / "iter_0000020" / "mcc.json"
    values = json.loads(described.read_text(encoding="utf-8"))
    values["layout"]["dp"] = 2
    described.write_text(json.dumps(values), encoding="utf-8")
    (folder / "iter_0000020" / "checksums.json").unlink()  # of the description as it was


def shown() -> list[tuple[str, list[str]]]:
    """(command, lines of output) of the page's blocks."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"```\n(\$ .*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return found


def words(lines: list[str], masked: bool) -> list[str]:
    """Lines without their spacing and rules; `masked`: without numbers and without what stands in a table's rows."""
    kept = [" ".join(line.split()) for line in lines if line.strip() and "──" not in line]
    if not masked:
        return kept
    return [
        _NUMBER.sub("#", line) for line in kept if not line.startswith(("layers.", "final_norm", "embedding", "..."))
    ]


def test_the_tour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    run_of_the_page(tmp_path / "runs" / "small")
    commands = shown()
    assert len(commands) >= 12
    for command, expected in commands:
        if command.startswith("mcc "):
            main(shlex.split(command)[1:])
            said = capsys.readouterr()
            got = [*said.out.splitlines(), *said.err.splitlines()]
        else:
            got = subprocess.run(command, shell=True, text=True, stdout=subprocess.PIPE, check=True).stdout.splitlines()
        masked = any(word in command for word in _OF_WEIGHTS)
        assert words(got, masked) == words(expected, masked), command
