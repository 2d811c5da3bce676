"""A file stands under its final name only when it is complete."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mcc.core.errors import MccError
from mcc.core.files import atomic_path, partial_path, require_file, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_output_appears_when_the_block_ends(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out.txt"
    with atomic_path(out) as temporary:
        temporary.write_text("half")
        assert not out.exists()
        assert temporary.parent == out.parent, "a rename is atomic on one file system only"
        assert temporary == partial_path(out)
    assert out.read_text() == "half"
    assert names(out.parent) == ["out.txt"]


def test_a_failure_keeps_the_old_file_and_leaves_no_trace(tmp_path: Path) -> None:
    out = tmp_path / "out.txt"
    out.write_text("old")
    for error in (ValueError("x"), KeyboardInterrupt()):
        with pytest.raises(type(error)), atomic_path(out) as temporary:
            temporary.write_text("new")
            raise error
        assert out.read_text() == "old"
        assert names(tmp_path) == ["out.txt"]


def test_a_folder_replaces_a_folder_whole(tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "old").write_text("")
    with pytest.raises(ValueError), atomic_path(out) as temporary:
        temporary.mkdir()
        raise ValueError
    assert names(out) == ["old"]
    with atomic_path(out) as temporary:
        temporary.mkdir()
        (temporary / "new").write_text("")
    assert names(out) == ["new"]
    assert names(tmp_path) == ["run"]


def test_the_rest_of_a_killed_run_is_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "out.txt"
    partial_path(out).mkdir()
    (partial_path(out) / "x").write_text("")
    write_text(out, "fine")
    assert names(tmp_path) == ["out.txt"]


def test_writing_nothing_is_a_mistake_that_leaves_the_old_file(tmp_path: Path) -> None:
    out = tmp_path / "out.txt"
    out.write_text("old")
    with pytest.raises(FileNotFoundError), atomic_path(out):
        pass
    assert out.read_text() == "old"


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MccError, match=r"cannot write .*file/out"), atomic_path(tmp_path / "file" / "out"):
        raise AssertionError("the block must not start")


def test_text_is_utf8(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "ä\n")
    assert (tmp_path / "a").read_bytes() == b"\xc3\xa4\n"


def test_require_file(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    with pytest.raises(MccError, match=r"no such corpus: .*a\.txt"):
        require_file(file, "corpus")
    with pytest.raises(MccError, match="is a folder"):
        require_file(tmp_path)
    file.write_text("")
    assert require_file(str(file)) == file


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_a_clear_error(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.touch(mode=0)
    with pytest.raises(MccError, match="may not be read"):
        require_file(file)
