"""Files that hand bytes from process to process: they are used again, and nobody reads what was there before."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from mcc.data.base.passing import Passing


@pytest.fixture
def passing(tmp_path: Path) -> Passing:
    made = Passing(tmp_path / "passed")
    made.begin()
    return made


def read(passing: Passing, path: Path, *sizes: tuple[str, int]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for name, piece in passing.read(path, sizes):
        found[name] = found.get(name, b"") + bytes(piece)
    return found


def test_a_file_is_used_again(passing: Passing) -> None:
    first = passing.write([b"a" * 1_000_000, b"b"])
    second = passing.write([b"c" * 10])
    assert first != second and not passing.away
    node = first.stat().st_ino
    assert read(passing, first, ("x", 1_000_000), ("y", 0), ("z", 1)) == {"x": b"a" * 1_000_000, "z": b"b"}
    third = pickle.loads(pickle.dumps(passing)).write([b"d" * 5])
    assert third.stat().st_ino == node and third.stat().st_size == 1_000_001
    assert read(passing, third, ("x", 5)) == {"x": b"d" * 5} and read(passing, second, ("x", 10)) == {"x": b"c" * 10}
    passing.end()
    assert not passing.folder.exists()


def test_what_an_earlier_run_left_is_not_used(passing: Passing) -> None:
    left = passing.write([b"old"])
    with left.open("r+b") as late:  # a process that outlived its run
        passing.begin()
        path = passing.write([b"new"])
        late.write(b"old")
    assert read(passing, path, ("x", 3)) == {"x": b"new"}


def test_a_file_that_is_cut_off(passing: Passing) -> None:
    path = passing.write([b"abc"])
    with pytest.raises(OSError, match="is cut off"):
        read(passing, path, ("x", 4))
