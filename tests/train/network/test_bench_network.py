"""The report of `mcc bench network`: made of runs' figures, drawn, and its scratch folder removed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mcc.core.errors import UsageError
from mcc.train.config import TrainConfig
from mcc.train.network.bench import Report, Run, compared, timing
from mcc.train.network.config import NetworkConfig
from mcc.train.network.plot import check, draw
from mcc.train.network.scratch import remove_ended


def _run(name: str, times: list[float | None], loss: float) -> Run:
    rates = ("unshaped", "1gbit", "10mbit")
    timings = [
        timing(rate, [] if t is None else [{"step_time_s": t, "wire_bytes": {"pp.forward": 8}}])
        for rate, t in zip(rates, times, strict=True)
    ]
    return Run(name=name, compress=(), timings=timings, heldout_loss=loss)


def _report(*runs: Run) -> Report:
    return compared(NetworkConfig(), TrainConfig(), {}, runs)


def test_runs_are_compared_with_dense_at_the_same_rate_and_unshaped() -> None:
    report = _report(_run("dense", [1.0, 2.0, 8.0], 4.0), _run("a", [1.1, 1.2, 1.25], 4.02))
    dense, small = report.runs
    assert [t.fraction for t in dense.timings] == [1.0, 0.5, 0.125]
    assert [t.speed_up for t in small.timings] == pytest.approx([1 / 1.1, 2 / 1.2, 6.4])
    assert small.loss_ratio == pytest.approx(1.005)
    assert report.bar is not None
    assert (report.bar.rate, report.bar.best, report.bar.met) == ("10mbit", "a", True)
    assert report.bar.fraction == pytest.approx(0.8)


def test_a_quick_run_with_a_bad_loss_does_not_meet_the_bar() -> None:
    dense = _run("dense", [1.0, 2.0, 8.0], 4.0)
    quick, good = _run("quick", [1.0, 1.0, 1.0], 4.5), _run("good", [1.0, 1.1, 2.0], 4.0)
    assert (both := _report(dense, quick, good).bar) is not None
    assert (both.best, both.met) == ("good", False)
    assert (alone := _report(dense, quick).bar) is not None
    assert (alone.best, alone.met) == ("quick", False)
    assert _report(dense).bar is None
    assert _report(_run("dense", [1.0, 1.0, 2.0], 4.0), good).bar is None


def test_a_rate_without_steps_has_no_time() -> None:
    report = _report(_run("dense", [1.0, 2.0, None], 4.0), _run("a", [1.0, 1.0, 2.0], 4.0))
    assert report.runs[0].timings[2].fraction is None
    assert report.runs[1].timings[2].speed_up is None
    assert report.runs[1].timings[2].fraction == 0.5


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    report = _report(_run("dense", [1.0, 2.0, None], 4.0), _run("a", [1.0, 1.0, 2.0], 4.0))
    draw(report, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UsageError, match="endings"):
        check(tmp_path / "a.txt")


_HOLDER = """
import tempfile, sys, time
tempfile.tempdir = sys.argv[1]
from mcc.train.network.scratch import scratch_folder
with scratch_folder() as folder:
    print(folder, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_measurement_s_folder_is_removed(number: signal.Signals, tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", _HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        folder = Path(holder.stdout.readline().strip())
        remove_ended(tmp_path)
        assert folder.is_dir(), "its owner lives"
        holder.send_signal(number)
    if number == signal.SIGKILL:
        assert folder.is_dir()
        remove_ended(tmp_path)
    assert not folder.exists()


def test_nobody_else_s_folder_is_removed(tmp_path: Path) -> None:
    others = [tmp_path / "mcc-network-", tmp_path / "mcc-network-notes", tmp_path / f"mcc-network-{os.getpid()}-x"]
    others.append(tmp_path / "mcc-network-1-x")  # process 1 lives always
    for folder in others:
        folder.mkdir()
    remove_ended(tmp_path)
    assert all(folder.is_dir() for folder in others)
