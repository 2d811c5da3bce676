"""ZeRO-1 equals the unsharded update, keeps a share of the optimizer's state, and its checkpoints load anywhere."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from mcc.ckpt import native
from mcc.ckpt.convert import convert
from mcc.ckpt.format import WriteOptions, open_checkpoint
from mcc.core.events import SILENT
from mcc.train import checkpoint
from mcc.train.parallel.zero import dealt
from tests.ranks import run_ranks
from tests.train.toy import make_engine, toy_config, train, trained, whole_parameters, with_run

ZERO = {"zero": 1}


def _config(tp=1, pp=1, dp=1, compress=(), optimizer="adam", zero=True, **parallel):
    config = toy_config(tp, pp, dp, compress, parallel={**(ZERO if zero else {}), **parallel})
    return dataclasses.replace(config, optim=dataclasses.replace(config.optim, optimizer=optimizer, clip_grad=0.5))


def _ranks(config):
    p = config.parallel
    return p.tp * p.pp * p.dp * p.cp


def _close(found, wanted):
    for name, value in wanted.items():
        assert (found[name] - value).norm() / value.norm() < 1e-5, name


def test_two_replicas_equal_the_plain_update_bit_for_bit():
    """A sum of two terms is the same in any order."""
    zero = run_ranks(trained, 2, _config(dp=2), 6)
    plain = run_ranks(trained, 2, _config(dp=2, zero=False), 6)
    for (losses, parameters), (wanted_losses, wanted) in zip(zero, plain, strict=True):
        assert losses == wanted_losses
        for name in wanted:
            assert torch.equal(parameters[name], wanted[name]), name


@pytest.mark.parametrize(
    "layout",
    [
        pytest.param({"tp": 2, "dp": 4}, marks=pytest.mark.slow),
        pytest.param({"pp": 2, "dp": 4, "optimizer": "sgd"}, marks=pytest.mark.slow),
        {"tp": 2, "pp": 2, "dp": 2, "compress": ("dp.grad=powersgd:rank=32,warmup=3",)},
        {"dp": 2, "cp": 2},
        {"dp": 2, "pp": 2, "vpp": 2, "schedule": "zbv"},
    ],
    ids=lambda layout: "-".join(f"{k}{v}" for k, v in layout.items() if isinstance(v, int)),
)
def test_any_layout_equals_the_plain_update(layout):
    zero, plain = _config(**layout), _config(**layout, zero=False)
    found = run_ranks(trained, _ranks(zero), zero, 8)
    wanted_losses, wanted = run_ranks(trained, _ranks(plain), plain, 8)[0]
    for losses, parameters in found:
        assert losses == pytest.approx(wanted_losses, abs=1e-6)
        _close(parameters, wanted)
        assert all(torch.equal(parameters[name], found[0][1][name]) for name in wanted)


def _memory_and_wire(config):
    engine = make_engine(config)
    train(engine, 1)
    engine.mesh.wire.take()
    train(engine, 2)
    moments = engine.update.moments()
    kept = sum(tensor.numel() for tensors in moments.values() for tensor in tensors.values())
    whole = sum(p.numel() for p in engine.parameters.values())
    return kept, whole, engine.mesh.wire.take()


def test_each_replica_keeps_its_share_and_sends_what_the_all_reduce_sent():
    sharded = run_ranks(_memory_and_wire, 4, _config(dp=4))
    _, whole, dense = run_ranks(_memory_and_wire, 4, _config(dp=4, zero=False))[0]
    for kept, count, _ in sharded:
        assert count == whole
        assert kept == pytest.approx(2 * whole / 4, rel=0.02)
    assert sum(kept for kept, *_ in sharded) == 2 * whole
    reduced = dense["dp.grad"] + dense["embedding"]
    for *_, sent in sharded:
        assert sent["zero.grads"] + sent["zero.weights"] == pytest.approx(reduced, rel=0.02)
        assert sent["zero.grads"] == pytest.approx(reduced / 2, rel=0.02)
        assert "embedding" not in sent


def _uninterrupted(config, steps):
    engine = make_engine(config)
    return train(engine, steps), whole_parameters(engine)


def _train_and_save(config, steps):
    engine = make_engine(config)
    losses = train(engine, steps)
    checkpoint.save(engine, None)
    return losses


def _resume(config, steps):
    engine = make_engine(config)
    checkpoint.resume(engine, native.latest(Path(config.run.save)), SILENT)
    return train(engine, steps), whole_parameters(engine)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path, optimizer):
    config = with_run(_config(tp=2, dp=2, pp=2, optimizer=optimizer), save=str(tmp_path))
    straight = run_ranks(_uninterrupted, 8, config, 6)
    before = run_ranks(_train_and_save, 8, config, 3)
    after = run_ranks(_resume, 8, config, 3)
    for (losses, parameters), first, (second, resumed) in zip(straight, before, after, strict=True):
        assert first + second == losses
        assert all(torch.equal(parameters[name], resumed[name]) for name in parameters)


OTHERS = [
    {"zero": False},
    pytest.param({"tp": 2, "dp": 2, "zero": False}, marks=pytest.mark.slow),
    {"tp": 2, "dp": 4},
    pytest.param({"pp": 4, "dp": 2}, marks=pytest.mark.slow),
    pytest.param({"tp": 4, "cp": 2, "zero": False}, marks=pytest.mark.slow),
    {"dp": 2, "cp": 2},
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run's folder with a checkpoint at step 3 under TP2 x PP2 x DP2 with ZeRO, and how it goes on there."""
    folder = tmp_path_factory.mktemp("run")
    config = with_run(_config(tp=2, pp=2, dp=2), save=str(folder))
    run_ranks(_train_and_save, 8, config, 3)
    return folder, *run_ranks(_resume, 8, config, 3)[0]


@pytest.mark.parametrize("to", OTHERS, ids=str)
def test_zero_checkpoints_load_in_any_layout(saved, to):
    folder, wanted_losses, wanted = saved
    other = with_run(_config(**to), save=str(folder))
    losses, parameters = run_ranks(_resume, _ranks(other), other, 3)[0]
    assert losses == pytest.approx(wanted_losses, abs=1e-5)
    for name, value in wanted.items():
        assert (parameters[name] - value).norm() / value.norm() < 1e-4, name


def test_plain_checkpoints_load_with_zero_and_are_readable(tmp_path):
    plain = with_run(_config(tp=2, zero=False), save=str(tmp_path))
    run_ranks(_train_and_save, 2, plain, 3)
    wanted, _ = run_ranks(_resume, 2, plain, 3)[0]
    zero = with_run(_config(dp=4), save=str(tmp_path))
    assert run_ranks(_resume, 4, zero, 3)[0][0] == pytest.approx(wanted, abs=1e-5)


def test_mcc_ckpt_reads_sharded_moments(tmp_path):
    """The moments of a ZeRO checkpoint, whole, are those of the plain run."""
    stored = {}
    for name in ("zero", "plain"):
        config = with_run(_config(dp=2, zero=name == "zero"), save=str(tmp_path / name))
        run_ranks(_train_and_save, 2, config, 3)
        stored[name] = open_checkpoint(native.latest(tmp_path / name))
    assert stored["zero"].slots() == ("exp_avg", "exp_avg_sq")
    for name in stored["plain"].shapes():
        assert torch.equal(stored["zero"].read(name), stored["plain"].read(name)), name
        for slot in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(stored["zero"].read_slot(slot, name), stored["plain"].read_slot(slot, name)), name


def test_a_converted_checkpoint_continues(saved, tmp_path):
    """mcc to mcc with another tensor parallelism keeps the moments and the count of updates."""
    folder, wanted, _ = saved
    convert(folder, tmp_path / "other", "mcc", WriteOptions(tp=1))
    other = with_run(_config(tp=2), save=str(tmp_path / "other"))
    assert run_ranks(_resume, 2, other, 3)[0][0] == pytest.approx(wanted, abs=1e-5)


def test_rows_are_dealt_to_all():
    for rows in (0, 1, 5, 8):
        bounds = dealt(rows, 4)
        assert bounds[0] == 0 and bounds[-1] == rows
        assert max(b - a for a, b in pairwise(bounds)) <= math.ceil(rows / 4)
