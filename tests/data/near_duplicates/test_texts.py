"""Texts are found again where they stand, whatever stands between them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from mcc.core.errors import MccError
from mcc.data.base.records import ReadConfig
from mcc.data.dedup import DedupConfig, dedup

_TEXT = "The rain in Spain stays mainly in the plain, and what falls elsewhere is hardly worth a word. " * 3
_LINES = [
    "",
    json.dumps({"id": 1, "text": "é" + _TEXT}),
    "no JSON",
    "   ",
    json.dumps({"text": _TEXT + "!", "id": 2}) + "\r",
    json.dumps({"id": 3, "text": "Something else altogether, which has no double in this file. " * 4}),
    "",
    json.dumps({"id": 4, "text": _TEXT + "?"}),
]


@pytest.mark.parametrize("block_bytes", [200, 1 << 20])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_a_plain_file_gives_what_a_compressed_one_does(tmp_path: Path, start: bytes, block_bytes: int) -> None:
    raw = start + "\n".join(_LINES).encode()
    (tmp_path / "plain.jsonl").write_bytes(raw)
    (tmp_path / "packed.jsonl.gz").write_bytes(gzip.compress(raw))
    found = []
    for name in ("plain.jsonl", "packed.jsonl.gz"):
        out, gone = tmp_path / f"{name}.out.jsonl", tmp_path / f"{name}.gone.jsonl"
        config = DedupConfig(read=ReadConfig(block_bytes=block_bytes))
        report = dedup([tmp_path / name], out, config, duplicates=gone)
        assert (report.documents_in, report.removed, report.bad_lines) == (4, 2, 1)
        found.append((out.read_bytes(), gone.read_bytes()))
    assert found[0] == found[1]


def test_a_file_that_changes_meanwhile_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mcc.data.near_duplicates import phases

    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(line for line in _LINES if line.startswith("{")))
    find = phases.find_candidates

    def change(*args: object, **kwargs: object) -> dict[str, int]:
        path.write_bytes(b"x" * path.stat().st_size)
        return find(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(phases, "find_candidates", change)
    with pytest.raises(MccError, match=r"in\.jsonl was changed while it was read"):
        dedup([path], tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()
