"""A corpus from files, and from the running Python."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import pytest

from mcc.core.errors import MccError, UsageError
from mcc.data.corpus import python_corpus, read_corpus
from tests.data.conftest import Write
from tests.data.test_wiki import SMALL


def test_formats_mixed(jsonl: Write, tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("plain text\n")
    (tmp_path / "c.xml").write_bytes(SMALL)
    paths = [jsonl("a.jsonl", ["one", {"text": "two", "id": 5}]), tmp_path / "b.txt", tmp_path / "c.xml"]
    records = list(read_corpus(paths))
    assert [record["text"] for record in records] == ["one", "two", "plain text", "Erste Seite.", "Text"]
    assert records[1]["id"] == 5


def test_bad_corpora(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n")
    with pytest.raises(MccError, match=r"no documents in .*a\.txt"):
        list(read_corpus([tmp_path / "a.txt"]))
    with pytest.raises(MccError, match=r"no such corpus file"):
        list(read_corpus([tmp_path / "b.txt"]))
    (tmp_path / "c.docx").write_text("")
    with pytest.raises(UsageError, match="unknown format"):
        list(read_corpus([tmp_path / "c.docx"]))


def test_embedded_corpus() -> None:
    sysconfig.get_path("stdlib")  # loads a module of its own the first time
    before = set(sys.modules)
    records = list(python_corpus())
    loaded = {name for name in set(sys.modules) - before if not name.startswith(("pydoc_data", "encodings"))}
    assert not loaded, "modules are read, not imported"
    lengths = [len(record["text"]) for record in records]
    assert 300 < len(records) < 5000 and sum(lengths) > 1_000_000
    assert min(lengths) >= 500 and sum(500 <= n <= 5000 for n in lengths) > 0.9 * len(lengths)
    assert len({record["id"] for record in records}) == len(records)
    assert len({record["text"] for record in records}) > 0.98 * len(records)
    assert not [record["id"] for record in records if record["id"].startswith(("test.", "idlelib", "site-packages"))]
    some = list(python_corpus(max_chars=200_000))
    assert some == records[: len(some)]


def test_embedded_corpus_is_bounded() -> None:
    records = list(python_corpus(max_chars=50_000))
    assert 40_000 < sum(len(record["text"]) for record in records) <= 50_000
