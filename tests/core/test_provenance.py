"""The record of a run: configuration, version, commit, seeds."""

from __future__ import annotations

import json
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

import mcc
from mcc.core import provenance


def test_the_record_is_complete_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["mcc", "train", "--lr", "1"])
    path = provenance.write(tmp_path / "run", {"out": Path("x"), "lr": 1.0}, {"torch": 7})
    assert path == tmp_path / "run" / "run.json"
    found = json.loads(path.read_text())
    assert found["mcc"] == mcc.__version__
    assert found["config"] == {"out": "x", "lr": 1.0}
    assert found["seeds"] == {"torch": 7}
    assert found["command"] == ["mcc", "train", "--lr", "1"]
    assert found["packages"]["torch"] == version("torch")
    assert found["started"].endswith("+00:00")
    assert set(found) >= {"git", "python", "platform"}


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that mcc seems to run from."""
    (tmp_path / "mcc").mkdir()
    (tmp_path / "mcc" / "__init__.py").write_text("")
    monkeypatch.setattr(mcc, "__file__", str(tmp_path / "mcc" / "__init__.py"))
    return tmp_path


def test_the_commit_of_the_checkout_and_whether_it_was_changed(checkout: Path) -> None:
    def git(*words: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
        return subprocess.run(
            ["git", *identity, *words], cwd=checkout, check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init")
    git("add", ".")
    git("commit", "-m", "x")
    head = git("rev-parse", "HEAD")
    assert provenance.git_hash() == head
    (checkout / "new").write_text("not ours")
    assert provenance.git_hash() == head
    (checkout / "mcc" / "__init__.py").write_text("changed")
    assert provenance.git_hash() == f"{head}+changes"


def test_an_installed_package_has_no_commit(checkout: Path) -> None:
    assert provenance.git_hash() is None
    (checkout / ".git").mkdir()  # git refuses this
    assert provenance.git_hash() is None
