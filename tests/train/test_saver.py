"""Saving in the background: the same bytes, one at a time, from a copy, finished before the end."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from mcc.ckpt import native
from mcc.core.errors import MccError
from mcc.train import checkpoint
from mcc.train.saver import Saver, own_group
from tests.ranks import run_ranks
from tests.train.test_identity import COMPRESSED
from tests.train.toy import make_engine, toy_config, train, with_run


def _contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def _both_ways(config, here: Path, there: Path) -> None:
    """The same state saved at once, and in the background while training goes on."""
    engine = make_engine(config)
    train(engine, 2)
    now = Saver()
    later = Saver(background=True, group=own_group(True))
    checkpoint.save(engine, None, lambda run, *rest: now(here, *rest))
    with later:
        checkpoint.save(engine, None, lambda run, *rest: later(there, *rest))
        train(engine, 2)


def test_the_same_bytes_while_training_goes_on(tmp_path):
    config = with_run(toy_config(2, 2, 1, COMPRESSED), save=str(tmp_path))
    run_ranks(_both_ways, 4, config, tmp_path / "a", tmp_path / "b")
    a, b = (_contents(tmp_path / name / "iter_0000002") for name in "ab")
    assert a == b and len(a) >= 6


def _slow_save(run: Path) -> list[str]:
    """Three saves in a row of a disk that is slow: which were there when each began."""
    inner, seen = native.save, []

    def slow(*args, **kwargs):
        seen.append(sorted(f.name for f in run.glob("iter_*")))
        time.sleep(0.2)
        return inner(*args, **kwargs)

    native.save = slow  # type: ignore[assignment]
    state = {"x": torch.zeros(3)}
    with Saver(background=True, keep_last=2) as saver:
        for iteration in (1, 2, 3):
            began = time.monotonic()
            saver(run, iteration, state, {"format": "mcc", "version": 1, "model": {}}, None)
            state["x"] += 1  # after the copy
            if iteration == 1:
                assert time.monotonic() - began < 0.15
    return seen


def test_one_at_a_time_from_a_copy_and_finished_at_the_end(tmp_path):
    (seen,) = run_ranks(_slow_save, 1, tmp_path)
    assert seen == [[], ["iter_0000001"], ["iter_0000001", "iter_0000002"]]
    assert sorted(f.name for f in tmp_path.glob("iter_*")) == ["iter_0000002", "iter_0000003"]
    whole = torch.full((3,), 9.0)
    native.load(tmp_path / "iter_0000003", {"x": whole})
    assert whole.tolist() == [2.0] * 3


def _fails(run: Path) -> tuple[str, bool]:
    run.write_text("no folder")
    saver = Saver(background=True)
    saver(run, 1, {"x": torch.zeros(3)}, {}, None)
    caught = None
    until = time.monotonic() + 20
    while caught is None and time.monotonic() < until:
        try:
            saver.poll()
        except MccError as error:
            caught = error.what
        time.sleep(0.01)
    saver.wait()  # told once
    return caught


def test_a_failure_in_the_background_is_told_at_the_next_look(tmp_path):
    (what,) = run_ranks(_fails, 1, tmp_path / "run")
    assert "cannot write checkpoint" in what


def test_a_block_that_fails_is_not_held_up_by_the_save(tmp_path):
    class Hangs(Saver):
        def wait(self) -> None:
            raise AssertionError("waited")

    with pytest.raises(KeyError), Hangs(background=True):
        raise KeyError
