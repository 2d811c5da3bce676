"""kill -9 at any time, then the same command again: the bytes of an undisturbed run, and no half file under a name."""

from __future__ import annotations

import bz2
import json
import random
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from tests.data.killing import STEPS


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, tokenizer: Path) -> Path:
    """Documents of which some are alike, some short, some broken, and some hold a task's text."""
    folder = tmp_path_factory.mktemp("data")
    generator = random.Random(5)
    words = ["".join(generator.choices("abcdefghijklmnop", k=generator.randint(2, 9))) for _ in range(400)]
    passage = " ".join(words[:20])
    texts: list[str] = []
    for i in range(220):
        text = " ".join(generator.choices(words, k=generator.randint(20, 300))) + "."
        if i % 9 == 0 and texts:
            text = texts[generator.randrange(len(texts))].replace(words[3], words[4])
        if i % 11 == 0:
            text = f"{text * 2} {passage}. {text * 2}"
        texts.append(text)
    lines = [orjson.dumps({"id": i, "text": text}) for i, text in enumerate(texts)]
    lines.insert(70, b'{"text": 7}')
    (folder / "a.jsonl").write_bytes(b"\n".join(lines[:120]) + b"\n")
    (folder / "b.jsonl").write_bytes(b"\n".join(lines[120:]))
    (folder / "task.jsonl").write_bytes(orjson.dumps({"text": passage}))
    pages = "".join(
        f"<page><title>P{i}</title><ns>0</ns><id>{i}</id><revision><text>{text}</text></revision></page>\n"
        for i, text in enumerate(texts)
    )
    dump = f"<mediawiki><siteinfo><base>https://w.org/wiki/Main</base></siteinfo>{pages}</mediawiki>"
    (folder / "dump.xml.bz2").write_bytes(bz2.compress(dump.encode()))
    (folder / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    return folder


@pytest.mark.parametrize("step", STEPS)
def test_a_killed_step_goes_on(step: str, data: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.data.killing", step, str(tmp_path), str(data)],
        cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True, check=True, timeout=200,
    )  # fmt: skip
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["moments"] > 10 and found["wrong"] == []
