"""`--fully-shard` equals the unsharded run in every layout that it takes, and its checkpoints load anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mcc.ckpt import native
from mcc.ckpt.format import open_checkpoint
from mcc.core.errors import UsageError
from mcc.core.events import SILENT
from mcc.train import checkpoint
from mcc.train.parallel.fully_shard import check_fully_shard
from tests.ranks import run_ranks
from tests.train.toy import make_engine, toy_config, train, with_run

STEPS = 6


def _config(folder, full=True, **layout):
    axes = {axis: layout.pop(axis, 1) for axis in ("tp", "pp", "dp")}
    parallel = {**layout, "fully_shard": True} if full else layout
    return with_run(toy_config(**axes, parallel=parallel), save=str(folder))


def _ranks(config):
    p = config.parallel
    return p.tp * p.pp * p.dp * p.cp


def _run(config, steps, resume=False):
    """Losses, gradient norms, bytes sent, and the share of the parameters held here; saves at the end."""
    engine = make_engine(config)
    if resume:
        checkpoint.resume(engine, native.latest(Path(config.run.save)), SILENT)
    losses = train(engine, steps)
    checkpoint.save(engine, None)
    held = sum(p.numel() for p in engine.parameters.values())
    kept = sum(t.numel() for tensors in engine.update.moments().values() for t in tensors.values())
    return losses, held, kept, engine.mesh.wire.take()


def _close(folder, wanted):
    ours, theirs = open_checkpoint(native.latest(folder)), open_checkpoint(native.latest(wanted))
    for name in theirs.shapes():
        for found, value in (
            (ours.read(name), theirs.read(name)),
            (ours.read_slot("exp_avg", name), theirs.read_slot("exp_avg", name)),
        ):
            if value.norm() > 1e-5:  # the key biases' gradients are zero but for rounding
                assert (found - value).norm() / value.norm() < 1e-3, name


@pytest.mark.parametrize(
    "layout",
    [
        {"dp": 4},
        {"tp": 2, "dp": 2, "sequence_parallel": True},
        pytest.param({"dp": 2, "cp": 2}, marks=pytest.mark.slow),
        pytest.param({"pp": 2, "dp": 2}, marks=pytest.mark.slow),
        {"pp": 2, "vpp": 2, "dp": 2, "recompute_granularity": "full"},
    ],
    ids=str,
)
def test_it_equals_the_unsharded_run(tmp_path, layout):
    full, plain = _config(tmp_path / "full", **layout), _config(tmp_path / "plain", full=False, **layout)
    results = run_ranks(_run, _ranks(full), full, STEPS)
    (losses, whole, *_), *_ = run_ranks(_run, _ranks(plain), plain, STEPS)
    replicas = layout["dp"] * layout.get("cp", 1)
    for found, held, kept, sent in results:
        assert found == pytest.approx(losses, abs=1e-5)
        assert kept == 2 * held
        if "pp" not in layout:
            assert held == pytest.approx(whole / replicas, rel=0.15)
        assert sent["zero.weights"] > 0 and sent["zero.grads"] > 0
    _close(tmp_path / "full", tmp_path / "plain")


def test_its_checkpoints_load_in_any_layout_and_resume_bit_for_bit(tmp_path):
    config = _config(tmp_path, tp=2, dp=2)
    straight = run_ranks(_run, 4, _config(tmp_path / "straight", tp=2, dp=2), 6)
    before = run_ranks(_run, 4, config, 3)
    after = run_ranks(_run, 4, config, 3, True)
    for (whole, *_), (first, *_), (second, *_) in zip(straight, before, after, strict=True):
        assert first + second == whole
    run_ranks(_run, 4, config, 3)  # at step 3 again
    for layout in ({"full": False}, {"full": False, "pp": 2, "zero": 1, "dp": 2}):
        (losses, *_), *_ = run_ranks(_run, 4 if "pp" in layout else 1, _config(tmp_path, **layout), 3, True)
        assert losses == pytest.approx(after[0][0], abs=1e-5)
        run_ranks(_run, 4, config, 3)


def _begin_with(config, weights):
    engine = make_engine(config)
    checkpoint.load_weights(engine, weights)
    return train(engine, 1)


def test_it_begins_with_weights_of_any_checkpoint(tmp_path):
    plain = _config(tmp_path / "plain", full=False)
    run_ranks(_run, 1, plain, 3)
    weights = native.latest(tmp_path / "plain")
    wanted = run_ranks(_begin_with, 1, _config(tmp_path / "a", full=False), weights)[0]
    found = run_ranks(_begin_with, 2, _config(tmp_path / "b", dp=2), weights)
    assert all(losses == pytest.approx(wanted, abs=1e-5) for losses in found)


def test_what_does_not_go_together_is_refused(tmp_path):
    for layout, words in (
        ({"zero": 1}, "--zero 1"),
        ({"pp": 2, "vpp": 2, "schedule": "zbv"}, "schedule zbv computes"),
    ):
        with pytest.raises(UsageError, match=words):
            check_fully_shard(_config(tmp_path, **layout))
    config = toy_config(dp=2, compress=("dp.grad=quantize:bits=8",), parallel={"fully_shard": True})
    with pytest.raises(UsageError, match="needs whole gradients"):
        check_fully_shard(config)


def test_half_precision(tmp_path):
    """fp16 overflows are found in the shards."""
    config = toy_config(dp=2, parallel={"fully_shard": True}, precision="fp16", save=str(tmp_path))
    losses, *_ = run_ranks(_run, 2, config, 3)[0]
    assert torch.isfinite(torch.tensor(losses)).all()
