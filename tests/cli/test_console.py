"""Results on stdout, progress and warnings on stderr."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from mcc.cli import console
from mcc.core.events import SILENT


@dataclass
class Point:
    x: float
    path: Path


def test_json_is_json_whatever_the_value(capsys: pytest.CaptureFixture[str]) -> None:
    numpy = pytest.importorskip("numpy")
    console.print_json(
        {"p": Point(float("nan"), Path("a/b")), 2: (1, {"ä"}, numpy.float32(0.5), numpy.int64(3)), "n": None}
    )
    out = capsys.readouterr().out
    assert json.loads(out) == {"p": {"x": None, "path": "a/b"}, "2": [1, ["ä"], 0.5, 3], "n": None}
    assert "ä" in out
    with pytest.raises(TypeError, match="no JSON form for object"):
        console.print_json({"x": object()})


def test_a_table_in_a_pipe_is_whole_and_plain(capsys: pytest.CaptureFixture[str]) -> None:
    console.table("Sizes [x]", ["name", "bytes"], [["[red]a", 1234567], ["b" * 300, None]])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].strip() == "Sizes [x]"
    assert any("[red]a" in line and line.rstrip().endswith("1,234,567") for line in lines)
    assert any("b" * 300 in line for line in lines)
    assert "\x1b" not in "".join(lines)


def test_tables_are_lines_that_a_page_can_show(capsys: pytest.CaptureFixture[str]) -> None:
    console.table("step", ["", ""], [["documents in", 12], ["wrote", "a.jsonl"]])
    console.table("lengths", ["tokens", "sequences", ""], [["1 - 2", 12345, "█"], ["3", 1, None]])
    assert capsys.readouterr().out == (
        "step\n documents in   12\n wrote          a.jsonl\n"
        "lengths\n tokens   sequences\n 1 - 2       12,345   █\n 3                1\n"
    )


EVENTS = """
from mcc.cli.console import reporter
report = reporter()
with report.task("cleaning", 2, "docs") as task:
    task.advance()
    report.note("a note [x]")
    with report.task("inner", None) as inner:
        inner.advance(7)
    report.warn("careful")
    task.describe("loss 1.5")
    task.advance()
print("result")
"""


def test_away_from_a_terminal_only_warnings_are_printed() -> None:
    done = subprocess.run([sys.executable, "-c", EVENTS], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("result\n", "warning: careful\n")


def test_on_a_terminal_stderr_shows_progress_and_stdout_stays_clean() -> None:
    leader, follower = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "NO_COLOR": "1"}
    done = subprocess.run([sys.executable, "-c", EVENTS], stdout=subprocess.PIPE, stderr=follower, env=env, check=True)
    os.close(follower)
    shown = b""
    try:
        while part := os.read(leader, 65536):
            shown += part
    except OSError:  # how Linux ends a pseudo-terminal
        pass
    assert done.stdout == b"result\n"
    for text in ("cleaning", "2/2 docs", "a note [x]", "warning: careful", "loss 1.5", "inner"):
        assert text in shown.decode()


def test_ranks_other_than_0_are_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert console.reporter() is SILENT
    monkeypatch.setenv("RANK", "0")
    assert isinstance(console.reporter(), console.Quiet)


def test_bytes_and_the_time_left() -> None:
    from rich.console import Console

    progress, clock = console._progress(), iter(range(1000))
    progress.get_time = lambda: float(next(clock))  # type: ignore[method-assign]
    handle = progress.add_task("write", total=1.03e10, unit="B", text="")
    for _ in range(5):
        progress.advance(handle, 1e9)
    shown = io.StringIO()
    Console(file=shown, width=200).print(progress.make_tasks_table(progress.tasks))
    assert "5.0/10.3 GB" in shown.getvalue()
    assert re.search(r"ETA 0:00:\d\d", shown.getvalue())
    progress.advance(handle, 5.3e9)
    shown = io.StringIO()
    Console(file=shown, width=200).print(progress.make_tasks_table(progress.tasks))
    assert "ETA" not in shown.getvalue()
