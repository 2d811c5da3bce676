"""A run with `delta` that is killed goes on from its last checkpoint as if nothing had happened, bit for bit."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path

import pytest

from mcc.train import metrics
from mcc.train.config import DataConfig
from mcc.train.engine import Engine
from tests.train.job import job, job_config, tokens

STEPS = 14  # of 4 of the 24 windows that 4 documents are: the second epoch ends after 12


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return tokens(tmp_path_factory.mktemp("data"))


def _kill_at_step_ten(rank: int) -> None:
    inner = Engine.step

    def step(self, batch):
        if self.iteration == 9:
            os.kill(os.getpid(), signal.SIGKILL)
        return inner(self, batch)

    if rank == 3:
        Engine.step = step


def _losses(folder: Path) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in metrics.read(folder)]


@pytest.mark.parametrize(("options", "background"), [("bits=4", False), ("bits=4,store=disk,store_bits=8", True)])
def test_a_killed_run_goes_on(tmp_path, data, options, background):
    def config(name: str, **more):
        safe = {"async_save": background, **more}
        compress = (f"pp.forward=delta:{options}",)
        made = job_config(data, tmp_path / name, STEPS, {"pp": 2, "dp": 2}, compress, save_interval=4, **safe)
        return dataclasses.replace(made, data=DataConfig(data_path=str(data), split="10,90,0", samples="fixed"))

    with job(config("whole"), 4, tmp_path) as whole:
        assert whole.end(60) == [0] * 4
    with job(config("killed"), 4, tmp_path, _kill_at_step_ten) as killed:
        assert killed.end(60)[3] == -signal.SIGKILL
    with job(config("killed", resume=True), 4, tmp_path) as resumed:
        assert resumed.end(60) == [0] * 4
    found, wanted = _losses(tmp_path / "killed"), _losses(tmp_path / "whole")
    assert [step for step, _ in wanted] == list(range(1, STEPS + 1))
    assert found == wanted
    sent = [line["wire_bytes"]["pp.forward"] for line in metrics.read(tmp_path / "whole")]
    assert sent[0] == sent[5] > 4 * sent[6] == 4 * sent[-1]  # nothing but changes from the second epoch on
    assert [line["wire_bytes"]["pp.forward"] for line in metrics.read(tmp_path / "killed")] == sent
