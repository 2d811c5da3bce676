"""Every `--help`: it works, says how to use the command, and loads nothing heavy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from rich.errors import StyleSyntaxError
from rich.style import Style
from rich.text import Text

from mcc.cli import main as house

HEAVY = ("torch", "numpy", "transformers", "tokenizers", "lm_eval", "datasets", "nltk", "pandas", "matplotlib")

# One process for all commands; it stops at the first that loads something heavy, which would hide the others'.
ASK = """
import contextlib, io, json, sys
from mcc.cli.main import COMMANDS, load, main

def walk(command, path):
    yield path
    for name, sub in getattr(command, "commands", {}).items():
        if not sub.hidden:
            yield from walk(sub, [*path, name])

shown = []
for path in [[], *(path for name in COMMANDS for path in walk(load(name), [name]))]:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = main([*path, "--help"])
    heavy = [name for name in sys.argv[1:] if name in sys.modules]
    shown.append({"path": " ".join(path), "code": code, "text": out.getvalue(), "heavy": heavy})
    if heavy:
        break
print(json.dumps(shown))
"""


@pytest.fixture(scope="module")
def helps() -> list[dict[str, Any]]:
    env = {**os.environ, "COLUMNS": "200"}  # nothing is folded
    done = subprocess.run([sys.executable, "-c", ASK, *HEAVY], capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_no_help_loads_anything_heavy(helps: list[dict[str, Any]]) -> None:
    for shown in helps:
        assert shown["heavy"] == [], f"mcc {shown['path']} --help"


def test_every_command_has_help(helps: list[dict[str, Any]]) -> None:
    assert {shown["path"].split(" ")[0] for shown in helps} == {"", *house.COMMANDS}
    for shown in helps:
        assert shown["code"] == 0, shown["path"]
        assert f"Usage: mcc {shown['path']}".rstrip() in shown["text"]
        assert "--help" in shown["text"]
        assert ("--install-completion" in shown["text"]) == (shown["path"] == "")


def test_every_command_that_does_something_shows_an_example(helps: list[dict[str, Any]]) -> None:
    paths = {shown["path"] for shown in helps}
    leaves = [s for s in helps if s["path"] and not any(path.startswith(f"{s['path']} ") for path in paths)]
    assert len(leaves) >= len(house.COMMANDS)
    assert [
        s["path"] for s in leaves if f"mcc {s['path']}" not in s["text"].partition("Usage:")[2].partition("\n")[2]
    ] == []


def test_the_groups_are_groups() -> None:
    for name in ("data", "ckpt", "eval", "bench"):
        assert hasattr(house.load(name), "commands"), name
    for name in ("train", "quickstart", "doctor"):
        assert not hasattr(house.load(name), "commands"), name


def test_no_bracket_is_taken_for_markup() -> None:
    """Help is rich markup: `[default: x]` would vanish, `\\[default: x]` stays."""

    def texts(command: Any, path: str) -> Iterator[tuple[str, str]]:
        for text in (command.help, command.epilog, *(getattr(param, "help", None) for param in command.params)):
            yield path, text or ""
        for name, sub in getattr(command, "commands", {}).items():
            yield from texts(sub, f"{path} {name}")

    def is_style(text: str) -> bool:
        try:
            Style.parse(text)
        except StyleSyntaxError:
            return False
        return True

    for name in house.COMMANDS:
        for path, text in texts(house.load(name), name):
            lost = [span.style for span in Text.from_markup(text).spans if not is_style(str(span.style))]
            assert lost == [], f"mcc {path}: write \\[ for a bracket that is text"
