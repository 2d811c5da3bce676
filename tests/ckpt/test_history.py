"""The checkpoints of a run: checksums of every file, the last that is whole, the old ones that go."""

from __future__ import annotations

import json
import os
import resource
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from mcc.ckpt import history, native
from mcc.ckpt.checksums import CHECKSUMS, check, read_sums
from mcc.core.errors import MccError
from tests.ranks import run_ranks

DESCRIPTION = {"format": "mcc", "version": 1, "model": {"vocab_size": 8}, "iteration": 0}


def save(run: Path, iteration: int, keep: int = 0, size: int = 100) -> Path:
    """A checkpoint of one tensor a rank."""
    rank = dist.get_rank()
    state = {f"rank.{rank}.x": torch.full((size,), float(iteration + rank))}
    return native.save(run, iteration, state, {**DESCRIPTION, "iteration": iteration}, '{"a": 1}', keep=keep)


def save_all(run: Path, iterations: list[int], keep: int = 0) -> None:
    for iteration in iterations:
        save(run, iteration, keep)


def pick(run: Path) -> tuple[str | None, list[str], str | None]:
    """The checkpoint taken, what was warned of, and the error."""
    warned: list[str] = []
    try:
        found = history.last_good(run, warned.append)
    except MccError as error:
        return None, warned, error.what
    return found.name if found else None, warned, None


def test_every_file_is_summed_and_all_ranks_check(tmp_path: Path) -> None:
    run_ranks(save_all, 2, tmp_path, [1])
    folder = tmp_path / "iter_0000001"
    assert set(read_sums(folder) or {}) == {f.name for f in folder.iterdir()} - {CHECKSUMS}
    assert len(list(folder.glob("*.distcp"))) == 2
    files, size = check(folder) or (0, 0)
    assert (files, size) == (5, sum(f.stat().st_size for f in folder.iterdir() if f.name != CHECKSUMS))
    assert run_ranks(pick, 2, tmp_path) == [("iter_0000001", [], None)] * 2


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("name", ["__0_0.distcp", "__1_0.distcp", ".metadata", "mcc.json", "tokenizer.json"])
@pytest.mark.parametrize("harm", ["flip", "truncate", "remove"])
def test_any_damage_to_any_file_is_named(tmp_path: Path, name: str, harm: str) -> None:
    run = _two(tmp_path)
    file = run / "iter_0000002" / name
    if harm == "flip":
        _flip(file)
    elif harm == "truncate":
        os.truncate(file, file.stat().st_size - 3)
    else:
        file.unlink()
    with pytest.raises(MccError, match=name.replace(".", r"\.")) as caught:
        check(file.parent)
    assert "\n" not in caught.value.what
    found, warned, error = pick(run)
    assert (found, error) == ("iter_0000001", None)
    assert len(warned) == 1 and name in warned[0]


def _two(tmp_path: Path) -> Path:
    """A run with two checkpoints of two ranks; saved once for all tests."""
    cache = tmp_path.parent / "two-checkpoints"
    if not cache.exists():
        run_ranks(save_all, 2, cache, [1, 2])
    shutil.copytree(cache, tmp_path / "run")
    return tmp_path / "run"


def test_all_ranks_agree_on_the_one_before(tmp_path: Path) -> None:
    run = _two(tmp_path)
    _flip(run / "iter_0000002" / "__1_0.distcp")
    (first, warned, _), second = run_ranks(pick, 2, run)
    assert (first, second[0]) == ("iter_0000001", "iter_0000001")
    assert "iter_0000002 is passed over" in warned[0] and "__1_0.distcp is damaged: its crc32 is" in warned[0]


@pytest.mark.parametrize("text", ["", "\0\0\0", "iter_0000009", "../elsewhere", "iter_00"])
def test_a_torn_pointer_is_said_and_the_newest_taken(tmp_path: Path, text: str) -> None:
    run = _two(tmp_path)
    (run / "latest").write_text(text)
    found, warned, error = pick(run)
    assert (found, error) == ("iter_0000002", None)
    assert len(warned) == 1 and "latest" in warned[0] and "taking the newest" in warned[0]


def test_the_pointer_is_obeyed(tmp_path: Path) -> None:
    run = _two(tmp_path)
    (run / "latest").write_text("iter_0000001\n")
    assert pick(run) == ("iter_0000001", [], None)


def test_nothing_whole_is_an_error_and_nothing_at_all_is_none(tmp_path: Path) -> None:
    assert pick(tmp_path / "nothing") == (None, [], None)
    run = _two(tmp_path)
    for folder in run.glob("iter_*"):
        _flip(folder / "__0_0.distcp")
    found, warned, error = pick(run)
    assert found is None and len(warned) == 2
    assert error is not None and "is whole" in error and "iter_0000002/__0_0.distcp is damaged" in error


def test_without_checksums_the_files_are_looked_at(tmp_path: Path) -> None:
    run = _two(tmp_path)
    for folder in run.glob("iter_*"):
        (folder / CHECKSUMS).unlink()
    assert pick(run) == ("iter_0000002", [], None)
    os.truncate(run / "iter_0000002" / "__0_0.distcp", 10)
    found, warned, _ = pick(run)
    assert found == "iter_0000001" and "__0_0.distcp is truncated" in warned[0]


def test_damaged_checksums_are_no_excuse(tmp_path: Path) -> None:
    run = _two(tmp_path)
    (run / "iter_0000002" / CHECKSUMS).write_text("{")
    found, warned, _ = pick(run)
    assert found == "iter_0000001" and f"{CHECKSUMS} is damaged" in warned[0]
    sums = json.loads((run / "iter_0000001" / CHECKSUMS).read_text())
    sums["files"]["../../etc/passwd"] = {"bytes": 1, "crc32": "0"}
    (run / "iter_0000001" / CHECKSUMS).write_text(json.dumps(sums))
    assert pick(run)[0] is None


def test_the_last_k_stay(tmp_path: Path) -> None:
    run_ranks(save_all, 1, tmp_path, [1, 2, 3, 10], 2)
    assert sorted(f.name for f in tmp_path.glob("iter_*")) == ["iter_0000003", "iter_0000010"]
    (tmp_path / "latest").write_text("iter_0000003")
    run_ranks(save_all, 1, tmp_path, [11, 12], 0)
    (tmp_path / "latest").write_text("iter_0000003")
    assert [f.name for f in history.prune(tmp_path, 1)] == ["iter_0000010", "iter_0000011"]
    assert sorted(f.name for f in tmp_path.glob("iter_*")) == ["iter_0000003", "iter_0000012"]


def _save_on_a_full_disk(run: Path) -> tuple[str, list[str]]:
    """Rank 1 may write no file over 64 KiB: the second checkpoint's tensors don't fit."""
    save(run, 1)
    if dist.get_rank() == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
    with pytest.raises(MccError) as caught:
        save(run, 2, size=100_000)
    dist.barrier()  # the first rank deletes
    return caught.value.what, sorted(f.name for f in run.iterdir())


def test_a_full_disk_fails_on_every_rank_and_leaves_the_run_as_it_was(tmp_path: Path) -> None:
    for what, files in run_ranks(_save_on_a_full_disk, 2, tmp_path):
        assert "cannot write checkpoint" in what and "iter_0000002: rank 1: " in what and "\n" not in what
        assert files == ["iter_0000001", "latest"]
    assert pick(tmp_path) == ("iter_0000001", [], None)


def _leader_cannot_write(run: Path) -> str:
    if dist.get_rank() == 0:
        run.write_text("a file where the folder should be")
    dist.barrier()
    with pytest.raises(MccError) as caught:
        save(run, 1)
    return caught.value.what


def test_a_leader_that_cannot_write_fails_everywhere(tmp_path: Path) -> None:
    for what in run_ranks(_leader_cannot_write, 2, tmp_path / "run"):
        assert "cannot write checkpoint" in what and "rank 0: " in what


def _bytes_twice(run: Path) -> None:
    save(run / "a", 3)
    save(run / "b", 3)


def test_the_same_state_gives_the_same_bytes(tmp_path: Path) -> None:
    run_ranks(_bytes_twice, 1, tmp_path)
    a, b = (tmp_path / name / "iter_0000003" for name in "ab")
    assert {f.name: f.read_bytes() for f in a.iterdir()} == {f.name: f.read_bytes() for f in b.iterdir()}
