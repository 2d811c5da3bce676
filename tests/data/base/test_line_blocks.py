"""Files of lines: long lines, and files that end too soon."""

from __future__ import annotations

import bz2
import gzip
import random
from pathlib import Path

import pytest
import zstandard

from mcc.core.errors import MccError
from mcc.data.base.blocks import RecordSource
from mcc.data.base.part import Part
from mcc.data.base.records import ReadConfig

PACK = {".gz": gzip.compress, ".bz2": bz2.compress, ".zst": zstandard.ZstdCompressor().compress}


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".zst"])
def test_a_truncated_file_says_where(tmp_path: Path, ending: str) -> None:
    generator = random.Random(1)
    content = b"".join(b'{"text": "%d"}\n' % generator.getrandbits(4000) for _ in range(2000))
    path = tmp_path / f"in.jsonl{ending}"
    path.write_bytes(PACK[ending](content)[: len(content) // 4])
    source = RecordSource([path], block_bytes=1000)
    with pytest.raises(MccError, match=r"truncated after line [1-9]\d*"):
        list(source.blocks(0))


def test_a_very_long_line_is_a_bad_line(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"text": "a"}\n{"text": "' + b"x" * 5_000_000 + b'"}\n{"text": "b"}\n')
    source = RecordSource([path], ReadConfig(max_line_bytes=1_000_000), 1 << 20)
    out = Part({"rejects": ""})
    found = [where for u in range(source.units()) for b in source.blocks(u) for where, _ in b.records(source.read, out)]
    assert found == [f"{path}:1", f"{path}:3"]
    assert out.counts["bad_lines"] == 1 and out.warnings == [
        f"{path}:2: a line of 5,000,012 bytes, more than max_line_bytes = 1,000,000"
    ]
