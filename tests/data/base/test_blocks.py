"""Blocks: every line once, with its number, however the file is cut."""

from __future__ import annotations

import bz2
import gzip
import pickle
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcc.core.errors import UsageError
from mcc.data.base.blocks import RecordSource
from mcc.data.base.records import ReadConfig

LINES = st.lists(st.binary(max_size=40).map(lambda raw: raw.replace(b"\n", b"")), max_size=30)
PACK = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".zst": zstandard.ZstdCompressor().compress}


def expected(content: bytes, limit: int) -> list[tuple[int, bytes]]:
    lines = content.split(b"\n")
    if not lines[-1]:
        lines.pop()
    found = list(enumerate((line for line in lines), 1))
    if found and found[0][1].startswith(b"\xef\xbb\xbf"):
        found[0] = (1, found[0][1][3:])
    return [(number, line) for number, line in found if len(line) <= limit]


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    lines=LINES,
    last=st.booleans(),
    block=st.integers(1, 60),
    ending=st.sampled_from(sorted(PACK)),
    limit=st.sampled_from([10, 1000]),
    order=st.randoms(use_true_random=False),
)
def test_every_line_once(
    tmp_path: Path, lines: list[bytes], last: bool, block: int, ending: str, limit: int, order: object
) -> None:
    content = b"\n".join(lines) + (b"\n" if last and lines else b"")
    path = tmp_path / f"in.jsonl{ending}"
    path.write_bytes(PACK[ending](content))
    source = RecordSource([path], ReadConfig(max_line_bytes=limit), block)
    units = list(range(source.units()))
    order.shuffle(units)  # type: ignore[attr-defined]
    found = []
    long = []
    for unit in units:
        for one in source.blocks(unit):
            assert pickle.loads(pickle.dumps(one)) == one  # in another process it is the same
            found += [(number, line) for number, line in one.lines() if len(line) <= limit]
            long += [number for number, line in one.lines() if len(line) > limit]
            long += [number for number, _, _ in one.problems]
    assert sorted(found) == expected(content, limit)
    assert sorted(long) == sorted(
        set(range(1, len(expected(content, 10**9)) + 1)) - {n for n, _ in expected(content, limit)}
    )


def test_unknown_endings_are_refused(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("a,b")
    with pytest.raises(UsageError, match=r"unknown format '\.csv'"):
        RecordSource([tmp_path / "in.csv"])
