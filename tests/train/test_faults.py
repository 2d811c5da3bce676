"""Ranks that are killed, stopped, stuck, out of disk or of numbers: the job ends in time and names the rank."""

from __future__ import annotations

import json
import os
import resource
import signal
import time
from pathlib import Path

import pytest
import torch

from mcc.ckpt import native
from mcc.train import metrics
from mcc.train.engine import Engine
from tests.train.job import Job, job, job_config, tokens

WAYS = {"tp": 2, "dp": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return tokens(tmp_path_factory.mktemp("data"))


def losses(save: Path) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in metrics.read(save)]


def at_step(step: int, action) -> None:
    """In this process, call `action(engine)` when step `step` begins."""
    inner = Engine.step

    def stepped(self, batch):
        if self.iteration + 1 == step:
            action(self)
        return inner(self, batch)

    Engine.step = stepped  # type: ignore[method-assign]


def slowly(rank: int) -> None:
    inner = Engine.step

    def stepped(self, batch):
        time.sleep(0.05)
        return inner(self, batch)

    Engine.step = stepped  # type: ignore[method-assign]


def _killed(rank: int) -> None:
    if rank == 2:
        at_step(6, lambda engine: os.kill(os.getpid(), signal.SIGKILL))


def test_after_a_kill_all_end_and_a_restart_continues_the_same_curve(tmp_path, data):
    config = job_config(data, tmp_path / "run", 9, WAYS, save_interval=2)
    with job(config, 4, tmp_path, _killed) as broken:
        codes = broken.end()
        assert codes[2] == -signal.SIGKILL
        assert all(code == 1 for rank, code in enumerate(codes) if rank != 2)
        assert broken.causes() == []  # the others only saw it vanish
    assert losses(tmp_path / "run")[-1][0] == 5
    with job(config, 4, tmp_path, attempt=1) as again:
        assert again.end() == [0] * 4
    whole = job_config(data, tmp_path / "whole", 9, WAYS)
    (tmp_path / "w").mkdir()
    with job(whole, 4, tmp_path / "w") as uninterrupted:
        assert uninterrupted.end() == [0] * 4
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    assert len(losses(tmp_path / "run")) == 9


def _stopped(rank: int) -> None:
    if rank == 1:
        at_step(3, lambda engine: os.kill(os.getpid(), signal.SIGSTOP))


def test_a_stopped_rank_is_found_named_and_killed(tmp_path, data):
    config = job_config(data, tmp_path / "run", 500, {"dp": 2}, heartbeat_timeout=3.0)
    with job(config, 2, tmp_path, _stopped) as stopped:
        codes = stopped.end()
        (cause,) = stopped.causes()
        assert (cause.rank, cause.what) == (1, "no sign of life for 3 s")
        assert codes[0] != 0 and codes[1] == -signal.SIGKILL


def _stuck(rank: int) -> None:
    if rank == 1:
        at_step(3, _dawdle)


def _dawdle(engine: Engine) -> None:
    time.sleep(100)


def test_a_rank_that_keeps_the_others_waiting_is_named_with_its_line(tmp_path, data):
    config = job_config(data, tmp_path / "run", 500, {"dp": 2}, distributed_timeout_minutes=1 / 60)
    with job(config, 2, tmp_path, _stuck) as stuck:
        codes = stuck.end()
        (cause,) = stuck.causes()
        assert cause.rank == 1
        assert cause.what.startswith("it kept rank 0 waiting for 1 s: it is in train/")
        assert "loop.py:" in cause.what
        assert codes == [1, 1]


def _poisoned(rank: int) -> None:
    if rank == 1:
        at_step(4, _poison)


def _poison(engine: Engine) -> None:
    with torch.no_grad():
        next(iter(engine.parameters.values())).fill_(float("nan"))


def test_a_loss_that_is_not_a_number_is_traced_to_its_rank(tmp_path, data):
    config = job_config(data, tmp_path / "run", 8, {"dp": 2}, save_interval=1)
    with job(config, 2, tmp_path, _poisoned) as nan:
        assert nan.end() == [1, 1]
        (cause,) = nan.causes()
        assert (cause.rank, cause.what, cause.known) == (1, "loss is nan at step 4", True)
    assert native.latest(tmp_path / "run").name == "iter_0000003"


@pytest.mark.parametrize("harm", [_poisoned, _stopped], ids=["nan", "stopped"])
def test_under_another_launcher_the_rank_and_the_reason_are_one_line_on_stderr(tmp_path, data, harm):
    config = job_config(data, tmp_path / "run", 500, {"dp": 2}, heartbeat_timeout=2.0)
    with job(config, 2, tmp_path, harm, launcher=False) as broken:
        assert 0 not in broken.end()
    told = "".join((tmp_path / f"rank_{rank}.err").read_text() for rank in range(2))
    lines = [line for line in told.splitlines() if line.startswith("error: ")]
    what = "loss is nan at step 4" if harm is _poisoned else "no sign of life for 2 s"
    assert lines[0] == f"error: rank 1 (pp 0, dp 1, tp 0): {what}"
    assert "Traceback" not in told
    if harm is _poisoned:
        assert len(lines) == 1


def _raising(rank: int) -> None:
    def fail(*_: object) -> None:
        raise ValueError("told by a layer")

    if rank == 1:
        at_step(3, lambda engine: next(iter(engine.modules[1].layers.values())).register_forward_pre_hook(fail))


def test_what_a_layer_of_a_stage_raises_is_told(tmp_path, data):
    """torch's stages wrap it in an error of their own, from where the loss of other ranks is raised, too."""
    with job(job_config(data, tmp_path / "run", 30, {"pp": 2}), 2, tmp_path, _raising) as broken:
        assert broken.end() == [1, 1]
        (cause,) = broken.causes()
    assert cause.rank == 1 and "told by a layer" in cause.what


def _gradient_poisoned(rank: int) -> None:
    if rank == 0:
        at_step(4, lambda engine: _first(engine).register_hook(lambda grad: grad * float("inf")))


def _first(engine: Engine) -> torch.nn.Parameter:
    return next(iter(engine.parameters.values()))


def test_gradients_that_are_not_numbers_never_reach_the_weights(tmp_path, data):
    config = job_config(data, tmp_path / "run", 8, {"dp": 2}, save_interval=1)
    with job(config, 2, tmp_path, _gradient_poisoned) as nan:
        assert nan.end() == [1, 1]
        assert "the gradients' norm is" in nan.causes()[0].what
    assert native.latest(tmp_path / "run").name == "iter_0000003"


def _no_room(rank: int) -> None:
    def fill(engine: Engine) -> None:
        while not native.latest(Path(engine.config.run.save)):  # which may be written in the background still
            time.sleep(0.01)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, 1 << 14))

    if rank == 1:
        at_step(4, fill)


@pytest.mark.parametrize("background", [False, True], ids=["sync", "async"])
def test_a_full_disk_names_the_rank_and_leaves_the_last_checkpoint(tmp_path, data, background):
    config = job_config(data, tmp_path / "run", 30, {"dp": 2, "tp": 2}, save_interval=2, async_save=background)
    with job(config, 4, tmp_path, _no_room) as full:
        assert full.end() == [1] * 4
        (cause,) = full.causes()
        assert cause.rank == 1
        assert cause.known and "cannot write checkpoint" in cause.what and "iter_0000004: rank 1: " in cause.what
    assert native.latest(tmp_path / "run").name == "iter_0000002"
    assert not list((tmp_path / "run").glob(".*partial"))


def _stop(tmp_path: Path, data: Path, number: signal.Signals, **settings: object) -> tuple[Job, int]:
    config = job_config(data, tmp_path / "run", 2000, WAYS, **settings)
    with job(config, 4, tmp_path, slowly) as asked:
        asked.reach(2)
        asked.signal(3, number)
        assert asked.end() == [0] * 4
        assert asked.causes() == []
    step = losses(tmp_path / "run")[-1][0]
    assert native.latest(tmp_path / "run").name == native.folder_name(step)
    assert int((tmp_path / "failures" / "stopped").read_text()) == step < 2000
    return asked, step


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_any_rank_saves_and_ends_well(tmp_path, data, number):
    _stop(tmp_path, data, number)


def test_a_signal_finishes_the_save_in_the_background(tmp_path, data):
    _, step = _stop(tmp_path, data, signal.SIGTERM, async_save=True, save_interval=1, keep_last=2)
    kept = sorted(f.name for f in (tmp_path / "run").glob("iter_*"))
    assert kept == [native.folder_name(step - 1), native.folder_name(step)]


def _bug(rank: int) -> None:
    if rank == 0:
        at_step(2, lambda engine: {}["a bug"])


def test_a_bug_leaves_its_traceback_with_the_account(tmp_path, data):
    config = job_config(data, tmp_path / "run", 8, {"dp": 2})
    with job(config, 2, tmp_path, _bug) as broken:
        assert broken.end() == [1, 1]
        (cause,) = broken.causes()
    assert (cause.rank, cause.what, cause.known) == (0, "KeyError: 'a bug'", False)
    assert "in step" in cause.trace or "lambda" in cause.trace


def test_a_damaged_last_checkpoint_falls_back_and_says_so(tmp_path, data):
    run = tmp_path / "run"
    with job(job_config(data, run, 6, {"dp": 2}, save_interval=2), 2, tmp_path) as first:
        assert first.end() == [0, 0]
    before = losses(run)
    shard = run / "iter_0000006" / "__1_0.distcp"
    shard.write_bytes(shard.read_bytes()[:-1] + b"!")
    (tmp_path / "b").mkdir()
    config = job_config(data, run, 6, {"dp": 2}, resume=True)
    with job(config, 2, tmp_path / "b") as again:
        assert again.end() == [0, 0]
    assert losses(run) == before  # steps 5 and 6 were taken again
    assert native.latest(run).name == "iter_0000006"


def test_accounts_survive_a_torn_one(tmp_path):
    from mcc.train.faults import Account, accounts

    Account(rank=1, what="a", time=2.0).write(tmp_path)
    Account(rank=1, what="later", time=3.0).write(tmp_path)
    Account(rank=2, what="b", time=1.0).write(tmp_path)
    Account(rank=3, what="c", time=0.5, cause=False).write(tmp_path)
    (tmp_path / "rank_4.json").write_text(json.dumps({"rank": 4})[:-3])
    assert [(found.rank, found.what) for found in accounts(tmp_path)] == [(2, "b"), (1, "a")]
