"""Files of all formats become one, in order."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow
import pytest
import zstandard
from pyarrow import parquet

from mcc.core.errors import MccError, UsageError
from mcc.core.events import Silent
from mcc.data.base.records import ReadConfig
from mcc.data.concat import ConcatConfig, concat
from tests.data.conftest import Write, read


def test_any_formats(jsonl: Write, tmp_path: Path) -> None:
    lines = jsonl("a.jsonl", ["one", {"id": 2, "text": "two"}]).read_bytes()
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines))
    (tmp_path / "c.jsonl.zst").write_bytes(zstandard.compress(lines))
    parquet.write_table(pyarrow.table({"text": ["three"], "n": [3]}), tmp_path / "d.parquet")
    names = ["a.jsonl", "b.jsonl.gz", "d.parquet", "c.jsonl.zst"]
    report = concat([tmp_path / name for name in names], tmp_path / "out.jsonl")
    assert [record["text"] for record in read(tmp_path / "out.jsonl")] == [
        *("one", "two") * 2,
        "three",
        *("one", "two"),
    ]
    assert (report.documents_in, report.documents_out, report.chars_out) == (7, 7, 23)
    concat([tmp_path / "out.jsonl"], tmp_path / "again.jsonl")
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "out.jsonl").read_bytes()


def test_renames(jsonl: Write, tmp_path: Path) -> None:
    path = jsonl("a.jsonl", [{"content": "x", "id": 1, "more": 2}, {"content": "y", "url": "u", "id": 1}])
    report = concat([path], tmp_path / "out.jsonl", ConcatConfig(keys=("content=text", "id=url")))
    assert read(tmp_path / "out.jsonl") == [{"text": "x", "url": 1, "more": 2}]
    assert report.bad_lines == 1
    assert "'url' is there already" in read(tmp_path / "out.rejects.jsonl")[0]["reason"]
    assert report.renamed == {"content": 1, "id": 1}


class Warned(Silent):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def test_a_rename_without_effect_is_told(tmp_path: Path, jsonl: Write) -> None:
    warned = Warned()
    path = jsonl("a.jsonl", [{"text": "x", "id": 1}])
    report = concat([path], tmp_path / "out.jsonl", ConcatConfig(keys=("id=name", "idd=n")), warned)
    assert report.renamed == {"id": 1, "idd": 0}
    assert warned.warnings == ["concat: no document has the key 'idd', which was to be renamed"]


def test_every_line_is_checked(jsonl: Write, tmp_path: Path) -> None:
    path = jsonl("a.jsonl", ["fine", {"no": "text"}])
    assert concat([path], tmp_path / "out.jsonl").bad_lines == 1
    with pytest.raises(MccError, match=r"a\.jsonl:2: no key 'text'"):
        concat([path], tmp_path / "other.jsonl", ConcatConfig(read=ReadConfig(on_error="fail")))
    assert not (tmp_path / "other.jsonl").exists()


@pytest.mark.parametrize("keys", [("a",), ("a=",), ("=b",), ("a=a",), ("a=b", "a=c"), ("a=c", "b=c")])
def test_bad_renames(keys: tuple[str, ...]) -> None:
    with pytest.raises(UsageError):
        ConcatConfig(keys=keys)
