"""Reading a mapped index in pieces."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import pytest

from mcc.data.tokens.index_file import pieces

STATUS = Path("/proc/self/status")


def resident_file_kib() -> int:
    """Resident memory that mapped files take."""
    return next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith("RssFile"))


def test_pieces_are_the_whole() -> None:
    values = np.arange(200_000, dtype="<i4")
    assert np.array_equal(np.concatenate(list(pieces(values))), values)
    assert list(pieces(values[:0])) == []


@pytest.mark.skipif(not (STATUS.exists() and hasattr(mmap, "MADV_DONTNEED")), reason="needs Linux")
def test_what_was_read_of_a_mapped_file_does_not_stay(tmp_path: Path) -> None:
    count = 8 << 20
    np.arange(count, dtype="<i4").tofile(tmp_path / "values")
    mapped = np.memmap(tmp_path / "values", dtype=np.uint8, mode="r")[4:].view("<i4")
    before = resident_file_kib()
    total = most = 0
    for piece in pieces(mapped):
        total += int(piece.sum(dtype=np.int64))
        most = max(most, resident_file_kib() - before)
    assert total == count * (count - 1) // 2
    assert most < 8 << 10, "32 MiB were read"
