"""A rank is killed while it does this or that: the others end in time, and none of them takes the blame."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from mcc.ckpt import native
from mcc.train import loop, worker
from mcc.train.parallel.pipeline import Pipeline
from mcc.train.parallel.wire_stage import WireStage
from tests.train.job import job, job_config, tokens

VICTIM = 2
ENDS_WITHIN_S = 20  # a few seconds, and room for a machine that is busy


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return tokens(tmp_path_factory.mktemp("data"))


def _kill_in(owner: object, name: str, rank: int, calls: int = 1) -> None:
    """In the victim's process, be killed at the `calls`-th call of `owner.name`."""
    if rank != VICTIM:
        return
    inner, seen = getattr(owner, name), []

    def called(*args, **kwargs):
        seen.append(1)
        if len(seen) == calls:
            time.sleep(0.3)  # the others wait for this one by now
            os.kill(os.getpid(), signal.SIGKILL)
        return inner(*args, **kwargs)

    setattr(owner, name, called)


def _mesh(rank: int) -> None:
    _kill_in(loop, "make_mesh", rank)


def _pipeline(rank: int) -> None:
    _kill_in(WireStage, "get_fwd_send_ops", rank, 5)


def _evaluating(rank: int) -> None:
    _kill_in(Pipeline, "evaluate", rank, 2)


def _writing(rank: int) -> None:
    _kill_in(native._Writer, "write_data", rank, 2)


def _summing(rank: int) -> None:
    _kill_in(native, "digest", rank, 3)


EVERY, SLOW = (_pipeline, _writing), pytest.mark.slow
CASES = [(phase, False) for phase in (_mesh, _pipeline, _evaluating, _writing, _summing)] + [(_writing, True)]


@pytest.mark.parametrize(
    ("phase", "background"),
    [
        pytest.param(phase, later, id=phase.__name__[1:] + "-async" * later, marks=() if phase in EVERY else [SLOW])
        for phase, later in CASES
    ],
)
def test_the_others_end_and_take_no_blame(tmp_path, data, phase, background):
    more = {"eval_iters": 2, "eval_interval": 2, "save_interval": 3, "async_save": background}
    config = job_config(data, tmp_path / "run", 12, {"tp": 2, "pp": 2}, **more)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, split="80,20,0"))
    with job(config, 4, tmp_path, phase) as broken:
        broken.processes[VICTIM].join(60)
        codes = broken.end(ENDS_WITHIN_S)
        assert codes[VICTIM] == -signal.SIGKILL
        assert all(code == 1 for rank, code in enumerate(codes) if rank != VICTIM)
        assert broken.causes() == []


def _joining(rank: int) -> None:
    if rank == VICTIM:
        os.kill(os.getpid(), signal.SIGKILL)
    worker._JOINING_S = 1.0
    inner = worker.join

    def join(*args):
        Path(sys.argv[1]).with_name(f"joins_{rank}").touch()
        return inner(*args)

    worker.join = join


def test_ranks_that_wait_for_one_that_never_joins_end_when_the_launcher_asks(tmp_path, data):
    with job(job_config(data, tmp_path / "run", 12, {"dp": 3}), 3, tmp_path, _joining) as broken:
        until = time.monotonic() + 60
        while len(list(tmp_path.glob("joins_*"))) < 2 and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(1)  # torch waits by now, where no handler of Python's is called
        for rank in (0, 1):
            broken.signal(rank, signal.SIGTERM)
        assert broken.end(ENDS_WITHIN_S) == [1, 1, -signal.SIGKILL]
        assert broken.causes() == []
