"""The pages: their commands and options exist, their links lead somewhere, their files' paths do too."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from mcc.cli import train
from mcc.cli.data import app

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_FENCED = re.compile(r"```.*?```", re.DOTALL)
# What a shell makes of a line beyond words: the command ends there.
_SHELL = re.compile(r"\s(?:\||>|<|&&|&|;|2>)(?=\s|$)|;")


def shown(page: Path, command: str = "mcc data") -> list[tuple[str, list[str]]]:
    """(line, words after `command`) of every command in the blocks of a page."""
    found = []
    for block in _FENCED.findall(page.read_text(encoding="utf-8")):
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            for part in re.findall(rf"(?:^\$ |^|&& |; |-m )({command} .*)", line):
                found.append((line, shlex.split(_SHELL.split(part)[0], comments=True)[2:]))
    return found


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_take_the_options_that_are_shown(page: Path) -> None:
    root: Any = get_command(app)
    for line, words in shown(page):
        command = root.commands[words[0]]
        if words[0] == "dedup":
            steps = command.commands
            command = steps[words[1]] if words[1] in steps else steps["documents"]
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        for word in words[1:]:
            if re.match(r"--?[a-z]", word):
                assert word.partition("=")[0] in known, f"{page.name}: {line}"


# A mistake on purpose, for what is said of it.
WRONG = "--lr-warmup-itres"


def test_training_commands_take_the_options_that_are_shown() -> None:
    known = {option for parameter in get_command(train.app).params for option in parameter.opts}
    known |= {option for parameter in get_command(train.app).params for option in parameter.secondary_opts}
    found = [(page, line, words) for page in PAGES for line, words in shown(page, "mcc train")]
    assert len(found) > 10
    for page, line, words in found:
        for word in words:
            if word.startswith("--") and word != WRONG:
                assert word.partition("=")[0] in known, f"{page.name}: {line}"


def test_commands_are_found_in_the_pages() -> None:
    """The test above looks at something, and every command of `mcc data` is shown once at least."""
    commands = [words[0] for page in PAGES for _, words in shown(page)]
    group: Any = get_command(app)
    assert len(commands) > 100
    assert set(commands) == set(group.commands)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    text = _FENCED.sub("", page.read_text(encoding="utf-8"))
    for target in _LINK.findall(text):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, heading = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name}: {target}"
        if heading:
            titles = re.findall(r"(?m)^#+ (.*)$", _FENCED.sub("", file.read_text(encoding="utf-8")))
            anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
            assert heading in anchors, f"{page.name}: {target} of {sorted(anchors)}"
