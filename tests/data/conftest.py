"""Small files that many tests of this folder read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from mcc.data.tokenizer import TokenizerConfig, train_tokenizer

Write = Callable[[str, list], Path]


@pytest.fixture
def jsonl(tmp_path: Path) -> Write:
    """Write texts or whole records as JSON lines."""

    def write(name: str, records: list) -> Path:
        rows = [{"text": record} if isinstance(record, str) else record for record in records]
        path = tmp_path / name
        path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
        return path

    return write


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small trained tokenizer."""
    folder = tmp_path_factory.mktemp("tokenizer")
    corpus = folder / "corpus.txt"
    corpus.write_text("the quick brown fox jumps over the lazy dog, then it sleeps and dreams of foxes\n" * 50)
    train_tokenizer([corpus], folder / "tokenizer.json", TokenizerConfig(vocab_size=300))
    return folder / "tokenizer.json"


@pytest.fixture
def shared_data() -> Path:
    """The folder of real data, if there is one."""
    folder = os.environ.get("MCC_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("MCC_TEST_DATA names no folder of real data")
    return Path(folder)


def read(path: Path) -> list[dict]:
    """The records of a plain JSONL file."""
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]
