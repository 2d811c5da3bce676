"""Ids count on through all inputs, whatever the blocks and the processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcc.core.errors import UsageError
from mcc.data.base.records import ReadConfig
from mcc.data.ids import IdsConfig, ids
from tests.data.conftest import Write, read


@pytest.mark.parametrize(("block_bytes", "workers"), [(1 << 20, 1), (60, 1), (60, 2)])
def test_numbered_in_order(jsonl: Write, tmp_path: Path, block_bytes: int, workers: int) -> None:
    paths = [jsonl("a.jsonl", [f"a{i}" for i in range(20)]), jsonl("b.jsonl", [{"text": "b", "id": 3}, "c"])]
    config = IdsConfig(prefix="wiki", workers=workers, read=ReadConfig(block_bytes=block_bytes))
    report = ids(paths, tmp_path / "out.jsonl", config)
    records = read(tmp_path / "out.jsonl")
    assert [record["id"] for record in records] == [f"wiki-{i:010d}" for i in range(1, 23)]
    assert [record["text"] for record in records] == [*(f"a{i}" for i in range(20)), "b", "c"]
    assert (report.documents_in, report.documents_out, report.replaced) == (22, 22, 1)


def test_bad_lines_have_no_number(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"text": "a"}\n{"text": \n\n{"text": "b"}\n')
    report = ids([tmp_path / "in.jsonl"], tmp_path / "out.jsonl", IdsConfig(key="n", width=2))
    assert [record["n"] for record in read(tmp_path / "out.jsonl")] == ["01", "02"]
    assert report.bad_lines == 1 and len(read(tmp_path / "out.rejects.jsonl")) == 1


@pytest.mark.parametrize("values", [{"key": "text"}, {"key": ""}, {"width": 0}, {"workers": 0}])
def test_bad_settings(values: dict) -> None:
    with pytest.raises(UsageError):
        IdsConfig(**values)
