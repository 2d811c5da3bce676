"""Parquet files as blocks."""

from __future__ import annotations

from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from mcc.core.errors import MccError
from mcc.data.base.blocks import RecordSource
from mcc.data.base.part import Part


def test_what_is_no_parquet(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    path.write_bytes(b"PAR1 not really PAR1")
    with pytest.raises(MccError, match="cannot be read as Parquet"):
        RecordSource([path])


def test_a_damaged_page_says_where(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    rows = [{"text": f"{i} " * 50} for i in range(600)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=300, compression="snappy")
    raw = bytearray(path.read_bytes())
    second = parquet.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    raw[second + 30 : second + 400] = bytes(370)
    path.write_bytes(raw)
    source = RecordSource([path])
    assert len(list(source.blocks(0))) == 1
    with pytest.raises(MccError, match=r"in\.parquet: damaged behind row 300: "):
        list(source.blocks(1))


def test_a_row_without_json_is_a_bad_line(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    parquet.write_table(pyarrow.table({"text": [b"fine", b"\xff", b"fine too"]}), path)
    out = Part({"rejects": ""})
    source = RecordSource([path])
    found = [(where, record["text"]) for block in source.blocks(0) for where, record in block.records(source.read, out)]
    assert found == [(f"{path}:1", "fine"), (f"{path}:3", "fine too")]
    assert out.counts["bad_lines"] == 1 and out.warnings[0].startswith(f"{path}:2: a value has no JSON form: 'utf-8'")
