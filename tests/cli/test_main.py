"""The root command: lazy loading, errors in one form, exit codes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Annotated

import pytest
import typer

import mcc
from mcc.cli import main as house
from mcc.core.errors import MccError, UsageError

FAKE = typer.Typer()


@FAKE.command()
def fail(kind: str) -> None:
    """Raise the error of this kind."""
    raise {
        "mcc": MccError("file.jsonl:3 is not JSON", "remove the line"),
        "bare": MccError("no hint here"),
        "usage": UsageError("tp = 3 does not divide 16 heads", "--tp 2"),
        "interrupt": KeyboardInterrupt(),
        "unexpected": ValueError("\n  boom\nmore about it"),
        "empty": RuntimeError(),
        "disk": OSError(28, "No space left on device", "/out/x"),
        "abort": typer.Abort(),
        "exit": typer.Exit(3),
        "pipe": BrokenPipeError(32, "Broken pipe"),
        "assert": AssertionError("our bug"),
    }[kind]


@FAKE.command()
def add(number: int, to_number: Annotated[int, typer.Option()] = 1, kind: str = "x") -> int:
    """Add."""
    print(number + to_number)
    return 7  # a command's value is not an exit code


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("mcc.cli.fake")
    module.app = FAKE  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mcc.cli.fake", module)
    monkeypatch.setitem(house.COMMANDS, "fake", "A group for tests.")


@pytest.mark.parametrize(
    ("kind", "code", "printed"),
    [
        ("mcc", 1, "error: file.jsonl:3 is not JSON\nhint: remove the line\n"),
        ("bare", 1, "error: no hint here\n"),
        ("usage", 2, "error: tp = 3 does not divide 16 heads\nhint: --tp 2\n"),
        ("interrupt", 130, "error: interrupted\n"),
        ("unexpected", 1, "error: ValueError: boom\nhint: run again with --debug for the traceback\n"),
        ("empty", 1, "error: RuntimeError\nhint: run again with --debug for the traceback\n"),
        ("disk", 1, "error: no space left on device: /out/x\nhint: run again with --debug for the traceback\n"),
        ("abort", 1, "error: aborted\n"),
        ("exit", 3, ""),
        ("pipe", 1, "error: a connection or a pipe to another process broke\nhint: see the messages above\n"),
        ("assert", 1, "error: AssertionError: our bug\nhint: run again with --debug for the traceback\n"),
    ],
)
def test_errors_and_exit_codes(
    fake: None, capsys: pytest.CaptureFixture[str], kind: str, code: int, printed: str
) -> None:
    assert house.main(["fake", "fail", kind]) == code
    assert capsys.readouterr() == ("", printed)


@pytest.mark.parametrize(
    ("line", "printed"),
    [
        ("dcotor", "error: unknown command 'dcotor'; did you mean 'doctor'?\nhint: known: bench, ckpt,"),
        ("zzz", "error: unknown command 'zzz'\nhint: known: bench,"),
        ("--versoin", "error: no such option: --versoin; did you mean --version?\nhint: see mcc --help\n"),
        ("fake ad 1", "error: unknown command 'ad'; did you mean 'add'?\nhint: known: add, fail\n"),
        ("fake", "error: missing command\nhint: one of: fail, add\n"),
        (
            "fake add 1 --to-numbr 2",
            "error: no such option: --to-numbr; did you mean --to-number?\nhint: see mcc fake add",
        ),
        ("fake add 1 --qqq 2", "error: no such option: --qqq\nhint: see mcc fake add --help\n"),
        ("fake add", "error: missing argument"),
        ("fake add x", "error: invalid value for "),
        ("fake add 1 2", "error: got unexpected extra argument"),
        ("fake add 1 --to-number", "error: option '--to-number' requires an argument\nhint: see mcc"),
    ],
)
def test_a_wrong_command_line_exits_with_2_and_suggests(
    fake: None, capsys: pytest.CaptureFixture[str], line: str, printed: str
) -> None:
    assert house.main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(printed)
    assert len(err.splitlines()) == 2


def test_success_prints_the_result_only(fake: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert house.main(["fake", "add", "1"]) == 0
    assert capsys.readouterr() == ("2\n", "")


@pytest.mark.parametrize("line", ["--debug fake fail mcc", "fake --debug fail mcc", "fake fail mcc --debug"])
def test_debug_shows_the_traceback_wherever_it_stands(
    fake: None, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    assert house.main(line.split()) == 1
    err = capsys.readouterr().err
    assert err.startswith("Traceback (most recent call last)")
    assert err.endswith("error: file.jsonl:3 is not JSON\nhint: remove the line\n")


def test_debug_after_two_dashes_is_a_word(fake: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert house.main(["fake", "fail", "--", "--debug"]) == 1
    assert capsys.readouterr().err.startswith("error: KeyError: '--debug'")


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert house.main(["--version"]) == 0
    assert capsys.readouterr().out == f"mcc {mcc.__version__}\n"
    for line in ([], ["--help"]):
        assert house.main(line) == 0
        shown = capsys.readouterr().out
        for name, help in house.COMMANDS.items():
            assert f"│ {name} " in shown
            assert help.split()[0] in shown
        assert "--install-completion" in shown


def test_help_of_everything_loads_no_command() -> None:
    code = "import sys; from mcc.cli.main import main; main(['--help']); print(sorted(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "'mcc.cli.main'" in done.stderr
    assert [name for name in house.COMMANDS if f"'mcc.cli.{name}'" in done.stderr] == []


def test_completion_knows_commands_and_options() -> None:
    env = {**os.environ, "_MCC_COMPLETE": "complete_bash", "COMP_CWORD": "1"}
    for words, expected in (
        ({"COMP_WORDS": "mcc do"}, "doctor"),
        ({"COMP_WORDS": "mcc bench st", "COMP_CWORD": "2"}, "startup"),
        ({"COMP_WORDS": "mcc no-such --he", "COMP_CWORD": "2"}, "--help"),
    ):
        done = subprocess.run([sys.executable, "-m", "mcc"], env={**env, **words}, capture_output=True, text=True)
        assert (done.stdout.split(), done.stderr) == ([expected], "")


BIG = """
import sys, types, typer
from mcc.cli import main as house
app = typer.Typer()
@app.command()
def big() -> None:
    for _ in range(100_000):
        print("line")
    {then}
house.COMMANDS["big"] = ""
sys.modules["mcc.cli.big"] = types.SimpleNamespace(app=app)
sys.argv = ["mcc", "big"]
house.run()
"""


@pytest.mark.parametrize("words", [["-c", BIG.format(then="")], ["-m", "mcc", "--help"]])
def test_a_reader_that_leaves_early_is_no_error(words: list[str]) -> None:
    with subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as started:
        assert started.stdout is not None
        assert started.stderr is not None
        started.stdout.close()
        assert started.stderr.read() == b""
        assert started.wait(30) == 1


def test_an_interrupted_process_says_so(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    # A shell starts background jobs with this signal ignored, and the tests may be one.
    hear = "import os, signal, time; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = BIG.format(then=f"{hear}; os.mkdir({str(ready)!r}); time.sleep(60)").replace("100_000", "1")
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as started:
        while not ready.exists() and started.poll() is None:
            time.sleep(0.02)
        started.send_signal(signal.SIGINT)
        _, err = started.communicate(timeout=30)
    assert (started.returncode, err) == (130, b"error: interrupted\n")
