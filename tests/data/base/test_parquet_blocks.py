"""Parquet files as blocks."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcc.core.errors import MccError
from mcc.data.base.blocks import RecordSource


def test_what_is_no_parquet(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    path.write_bytes(b"PAR1 not really PAR1")
    with pytest.raises(MccError, match="cannot be read as Parquet"):
        RecordSource([path])
