"""Adam that sends its momentum: the update is the formula's, replicas stay alike, and it resumes bit for bit."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from mcc.ckpt import native
from mcc.core.errors import UsageError
from mcc.core.events import SILENT
from mcc.train import checkpoint
from mcc.train.prepare import check_momentum
from tests.ranks import run_ranks
from tests.train.toy import make_engine, toy_config, train, whole_parameters, with_run

WARMUP, STEPS = 3, 7
ONE_BIT = f"dp.grad=quantize:bits=1,scale=block,feedback=on,of=momentum,warmup={WARMUP}"


def _config(*compress, tp=1, dp=2, clip=1.0, **parallel):
    config = toy_config(tp, 1, dp, compress, parallel=parallel)
    return dataclasses.replace(config, optim=dataclasses.replace(config.optim, clip_grad=clip))


def _run(config, steps, resume=False, save=False):
    engine = make_engine(config)
    if resume:
        checkpoint.resume(engine, native.latest(Path(config.run.save)), SILENT)
    losses = train(engine, steps)
    if save:
        checkpoint.save(engine, None)
    held = {name: p.detach().clone() for name, p in engine.parameters.items()}
    return losses, held, whole_parameters(engine)


def _formula(config, steps):
    """One process with Adam as it is written down, its second moment frozen after the warm-up; in float64."""
    engine = make_engine(config)
    optim = config.optim
    moments = {name: (torch.zeros_like(p.data).double(),) * 2 for name, p in engine.parameters.items()}

    def step() -> None:
        t = engine.clock.step + 1
        frozen = min(t, WARMUP)
        for name, p in engine.parameters.items():
            m, v = moments[name]
            g = p.grad.double()
            m = optim.adam_beta1 * m + (1 - optim.adam_beta1) * g
            v = optim.adam_beta2 * v + (1 - optim.adam_beta2) * g * g if t <= WARMUP else v
            moments[name] = m, v
            decay = optim.weight_decay if p.dim() > 1 else 0.0
            root = (v / (1 - optim.adam_beta2**frozen)).sqrt() + optim.adam_eps
            rate, mean = engine.rate(engine.clock.step), m / (1 - optim.adam_beta1**t)
            if t > WARMUP:
                root = root.maximum(mean.abs())
            p.data.copy_(p.double() * (1 - rate * decay) - rate * mean / root)

    engine.update.optimizer.step = step
    return train(engine, steps), whole_parameters(engine)


def test_without_loss_it_is_adam_with_a_frozen_variance():
    config = _config(f"dp.grad=none:of=momentum,warmup={WARMUP}", clip=0.0)
    losses, wanted = run_ranks(_formula, 1, _config(dp=1, clip=0.0), STEPS)[0]
    for found, _, parameters in run_ranks(_run, 2, config, STEPS):
        assert found == pytest.approx(losses, abs=1e-4)
        for name, value in wanted.items():
            assert (parameters[name] - value).norm() / value.norm() < 1e-4, name


def test_one_bit_learns_alike_on_all_replicas_and_resumes(tmp_path):
    """Quantised to a bit, with clipping, over tensor parallelism, too; in two runs as in one."""
    dense = run_ranks(_run, 4, _config(tp=2), STEPS)[0][0]
    config = with_run(_config(ONE_BIT, tp=2), save=str(tmp_path))
    straight = run_ranks(_run, 4, config, STEPS)
    first = run_ranks(_run, 4, config, WARMUP + 2, False, True)
    second = run_ranks(_run, 4, config, STEPS - WARMUP - 2, True)
    for rank, (whole, before, after) in enumerate(zip(straight, first, second, strict=True)):
        assert before[0] + after[0] == whole[0] == straight[0][0]
        assert whole[0][:WARMUP] == pytest.approx(dense[:WARMUP], abs=1e-6)
        assert whole[0] == pytest.approx(dense, abs=0.2) and whole[0][-1] < dense[0] - 0.1
        for name, value in whole[1].items():
            assert torch.equal(value, after[1][name])
            assert torch.equal(value, straight[rank % 2][1][name]), name  # rank % 2: its tensor-parallel place
        assert all(torch.equal(value, straight[0][2][name]) for name, value in whole[2].items())


@pytest.mark.parametrize(
    ("compress", "changes", "why"),
    [
        (ONE_BIT, {"optimizer": "sgd"}, "is for Adam"),
        (ONE_BIT, {"zero": 1}, "the whole momentum"),
        ("dp.grad=quantize:of=momentum", {}, "freezes the variance"),
    ],
)
def test_what_cannot_work_is_refused(compress, changes, why):
    config = _config(compress, zero=changes.get("zero", 0))
    optim = dataclasses.replace(config.optim, optimizer=changes.get("optimizer", "adam"))
    with pytest.raises(UsageError, match=why):
        check_momentum(dataclasses.replace(config, optim=optim))


def _rare_token():
    """The farthest move of a step after the warm-up, where a token comes for the first time then; and the rate."""
    engine = make_engine(_config(ONE_BIT.replace("feedback=on,", ""), clip=0.0))
    rows = engine.parameters["embedding.positions.weight"]
    rows.register_hook(lambda grad: grad * 0 if engine.clock.step < WARMUP else grad)
    train(engine, WARMUP)
    before = rows.detach().clone()
    train(engine, 1)
    return (rows - before).abs().max().item(), engine.rate(WARMUP)


def test_what_the_warm_up_did_not_see_moves_by_no_more_than_the_rate():
    for moved, rate in run_ranks(_rare_token, 2):
        assert 0 < moved <= rate * 1.001
