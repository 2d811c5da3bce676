"""Scores side by side: which is best, how far apart, what is missing; the image is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mcc.cli.main import main
from mcc.core.errors import MccError, UsageError
from mcc.eval.compare import compare, plot, read_results


def report(**values: tuple[float, float | None, bool]) -> dict[str, Any]:
    metrics = {
        name: {"value": value, "stderr": error, "higher_is_better": higher}
        for name, (value, error, higher) in values.items()
    }
    return {"results": {"piqa": {"metrics": metrics}}}


A = report(acc=(0.5, 0.03, True), perplexity=(20.0, None, False))
B = report(acc=(0.6, 0.04, True), perplexity=(10.0, None, False))
C = report(acc=(0.55, 0.03, True))


def folder(path: Path, values: dict[str, Any]) -> Path:
    path.mkdir()
    (path / "results.json").write_text(json.dumps(values))
    return path


def test_lines() -> None:
    accuracy, perplexity = compare(["a", "b"], [A, B]).lines
    assert (accuracy.best, accuracy.distance) == (1, pytest.approx(2.0))
    assert (perplexity.best, perplexity.distance) == (1, None)
    found = compare(["a", "c"], [A, C]).lines
    assert found[1].values == (20.0, None) and found[1].best is None
    assert compare(["a", "c"], [C, C]).lines[0].best is None
    with pytest.raises(UsageError, match="two or more"):
        compare(["a"], [A])


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = folder(tmp_path / "a", A), folder(tmp_path / "b", B)
    assert main(["eval", "compare", str(a), str(b), "--plot", str(tmp_path / "x.png")]) == 0
    out = capsys.readouterr().out
    assert "0.6 ± 0.04 *" in out and "0.5 ± 0.03" in out
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    assert main(["eval", "compare", str(a), str(b), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["names"] == ["a", "b"]
    assert main(["eval", "compare", str(a), str(tmp_path / "run")]) == 2
    assert "run has no scores yet: which tasks?" in capsys.readouterr().err
    assert main(["eval", "compare", str(a)]) == 2


def test_wrong_input(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(MccError, match="has no scores"):
        read_results(tmp_path)
    with pytest.raises(UsageError, match="no image of the kind 'txt'"):
        plot(compare(["a", "b"], [A, B]), tmp_path / "x.txt")
    with pytest.raises(MccError, match="there is no score to draw"):
        plot(compare(["a", "b"], [{"results": {}}] * 2), tmp_path / "x.png")
    # Before anything is scored.
    assert main(["eval", "compare", "missing", "none", "--tasks", "piqa", "--plot", "x.bmp"]) == 2
