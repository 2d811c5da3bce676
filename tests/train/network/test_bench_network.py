"""The report of `mcc bench network`: made of runs' figures, drawn, and its scratch folder removed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mcc.core.errors import UsageError
from mcc.core.events import Silent
from mcc.train.config import RunConfig, TrainConfig
from mcc.train.network.bench import Report, Run, compared, follow_rates, timing
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


def test_the_bar_is_judged_where_dense_took_no_step() -> None:
    dense, other = _run("dense", [1.0, 2.0, None], 4.0), _run("a", [1.0, 1.0, 1.2], 4.0)
    assert (bar := _report(dense, other).bar) is not None
    assert (bar.rate, bar.dense_fraction, bar.met) == ("10mbit", 0.0, True)
    assert bar.fraction == pytest.approx(1 / 1.2)
    assert (neither := _report(dense, _run("a", [1.0, 1.0, None], 4.0)).bar) is not None
    assert (neither.fraction, neither.met) == (0.0, False)
    assert _report(_run("dense", [None, None, None], 4.0), other).bar is None


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    report = _report(_run("dense", [1.0, 2.0, None], 4.0), _run("a", [1.0, 1.0, 2.0], 4.0))
    draw(report, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UsageError, match="endings"):
        check(tmp_path / "a.txt")


class _Scripted:
    """A run that takes a step at each look, but none at slow rates; and the network that it runs on."""

    def __init__(self, config: TrainConfig, slow: str) -> None:
        self.config, self.slow = config, slow
        self.rate: str | None = None
        self.rates: list[str | None] = []  # of every step

    def shape(self, rate: Any, latency_ms: float) -> None:
        self.rate = rate.name if rate else None

    def look(self) -> None:
        if self.rate == self.slow:
            time.sleep(0.01)
        elif len(self.rates) < self.config.run.train_iters:
            self.rates.append(self.rate)

    @property
    def ended(self) -> bool:
        return len(self.rates) == self.config.run.train_iters

    def steps(self) -> int:
        return len(self.rates)

    def lines(self) -> list[dict[str, Any]]:
        steps = [{"loss": 1.0, "step_time_s": 1.0 + (r is not None), "wire_bytes": {}} for r in self.rates]
        return [*steps, {"heldout_loss": 3.0}]


def _follow(slow: str, warnings: Silent) -> tuple[Run, list[str | None]]:
    config = NetworkConfig(rates=("1mbit", "1gbit"), steps=3, limit_s=1)
    script = _Scripted(TrainConfig(run=RunConfig(train_iters=20)), slow)
    return follow_rates("a", (), script, script, config, warnings), script.rates  # type: ignore[arg-type]


def test_a_run_goes_through_its_rates_in_its_last_steps() -> None:
    run, rates = _follow("", Silent())
    assert rates == [None] * 10 + ["1gbit"] * 5 + ["1mbit"] * 5
    assert [(t.rate, t.steps, t.step_s) for t in run.timings] == [
        ("unshaped", 8, 1.0),
        ("1gbit", 3, 2.0),
        ("1mbit", 3, 2.0),
    ]
    assert run.heldout_loss == 3.0


def test_a_rate_that_is_too_slow_is_left_and_the_run_still_ends_after_as_many_steps() -> None:
    class Told(Silent):
        def warn(self, text: str) -> None:
            told.append(text)

    told: list[str] = []
    run, rates = _follow("1gbit", Told())
    assert rates == [None] * 15 + ["1mbit"] * 5
    assert [(t.rate, t.steps, t.step_s) for t in run.timings] == [
        ("unshaped", 8, 1.0),
        ("1gbit", 0, None),
        ("1mbit", 3, 2.0),
    ]
    assert len(told) == 1 and "1gbit: 0 of 5 steps" in told[0]


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
