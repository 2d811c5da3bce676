"""Blends on the command line."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from mcc.cli.blends import join


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (["--data-path", "1", "a", "2", "b c"], ["--data-path", "1 a 2 'b c'"]),
        (["--data-path", "1", "a", "x.toml"], ["--data-path", "1 a", "x.toml"]),
        (["--data-path", "1", "--tp", "2"], ["--data-path", "1", "--tp", "2"]),
        (["--lr", "1", "a", "2"], ["--lr", "1", "a", "2"]),
        (["--data-path"], ["--data-path"]),
    ],
)
def test_join(given: list[str], wanted: list[str]) -> None:
    assert join(given, {"--data-path"}) == wanted


def test_train_takes_a_blend() -> None:
    words = ["--data-path", "0.3", "a", "0.7", "b", "--valid-data-path", "c", "--show-config"]
    done = subprocess.run(
        [sys.executable, "-m", "mcc", "train", *words], capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["data"]["data_path"] == "0.3 a 0.7 b"
    assert json.loads(done.stdout)["data"]["valid_data_path"] == "c"
