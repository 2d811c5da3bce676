"""The folder of a run: full, gone, read-only, or another run's."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from mcc.ckpt import native
from mcc.core.errors import MccError
from mcc.core.locks import exclusive
from mcc.train.engine import Engine
from mcc.train.launch import run
from tests.train.job import job, job_config, tokens
from tests.train.test_faults import at_step


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return tokens(tmp_path_factory.mktemp("data"))


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A disk of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    done = mount and subprocess.run([mount, "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True)
    if not done or done.returncode:
        pytest.skip("mounting a small disk is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def _fill(folder: Path, room: int = 0) -> None:
    """Leave `room` bytes, whoever else writes meanwhile."""
    with (folder / "filler").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 14))
    os.truncate(folder / "filler", (folder / "filler").stat().st_size - room)


def _fill_after_a_save(engine: Engine) -> None:
    run = Path(engine.config.run.save)
    while native.latest(run) is None:  # in the background
        time.sleep(0.01)
    _fill(run.parent, room=1 << 15)  # for lines of metrics, and for no checkpoint


def _fills_its_disk(rank: int) -> None:
    if rank == 1:
        at_step(4, _fill_after_a_save)


@pytest.mark.parametrize("background", [False, True], ids=["sync", "async"])
def test_a_full_disk_ends_the_job_and_a_resume_with_room_again_goes_on(tmp_path, data, disk, background):
    settings = {"save_interval": 2, "async_save": background}
    config = job_config(data, disk / "run", 8, {"dp": 2}, **settings)
    with job(config, 2, tmp_path, _fills_its_disk) as full:
        assert full.end() == [1, 1]
        causes = full.causes()
        assert causes and all(cause.known for cause in causes)
        assert "No space left on device" in causes[0].what or "cannot write checkpoint" in causes[0].what
        assert "Traceback" not in causes[0].what and "\n" not in causes[0].what
    assert native.latest(disk / "run").name == "iter_0000002"
    (disk / "filler").unlink()
    (tmp_path / "again").mkdir()
    again = job_config(data, disk / "run", 8, {"dp": 2}, resume=True, **settings)
    with job(again, 2, tmp_path / "again") as resumed:
        assert resumed.end() == [0, 0]
    assert native.latest(disk / "run").name == "iter_0000008"


def test_no_room_at_the_start_is_told_with_the_folder(data, disk):
    _fill(disk)
    with pytest.raises(MccError, match=r"cannot write to .*disk/run: No space left on device"):
        run(job_config(data, disk / "run", 2))


def test_a_read_only_folder_is_told_before_anything_starts(data, disk):
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(MccError, match=r"cannot write to .*disk/run: Read-only file system"):
        run(job_config(data, disk / "run", 2))


def _loses_its_folder(rank: int) -> None:
    if rank == 0:
        at_step(3, lambda engine: shutil.rmtree(engine.config.run.save))


def test_a_folder_that_vanishes_ends_the_job_with_the_reason(tmp_path, data):
    with job(job_config(data, tmp_path / "run", 50, {"dp": 2}), 2, tmp_path, _loses_its_folder) as lost:
        assert lost.end() == [1, 1]
        (cause,) = lost.causes()
    assert cause.rank == 0 and cause.known
    assert "metrics.jsonl: No such file or directory" in cause.what


def test_a_folder_takes_one_run_at_a_time(tmp_path, data):
    config = job_config(data, tmp_path / "run", 2)
    with exclusive(tmp_path / "run", "", "another run", ""):
        with pytest.raises(MccError, match="another run is writing to"):
            run(config)
        assert not (tmp_path / "run" / "run.json").exists()
        ranks = dataclasses.replace(config, parallel=dataclasses.replace(config.parallel, dp=2))
        with job(ranks, 2, tmp_path) as late:  # begun between the launcher's look and its own
            assert late.end() == [1, 1]
            assert "another run is writing to" in late.causes()[0].what
    (tmp_path / "alone").mkdir()
    with job(ranks, 2, tmp_path / "alone") as alone:
        assert alone.end() == [0, 0]
