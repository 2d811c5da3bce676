"""bf16 and fp16 train as fp32 does, within their rounding; fp16 skips what overflows; batches grow as told."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from mcc.ckpt import native
from mcc.core.errors import MccError, UsageError
from mcc.core.events import SILENT
from mcc.train import checkpoint
from mcc.train.config import ParallelConfig
from mcc.train.prepare import check_precision, check_recompute, without_effect
from tests.ranks import run_ranks
from tests.train.toy import MODEL, make_engine, toy_batch, toy_config, train, trained, whole_parameters, with_run

STEPS = 12


def _config(precision, tp=1, pp=1, dp=1, zero=0, compress=(), **optim):
    config = toy_config(tp, pp, dp, compress, parallel={"zero": zero}, precision=precision)
    return dataclasses.replace(config, optim=dataclasses.replace(config.optim, **optim))


@pytest.fixture(scope="module")
def full():
    """The losses in fp32, on one rank."""
    return run_ranks(trained, 1, _config("fp32"), STEPS)[0][0]


@pytest.mark.parametrize(("precision", "bound"), [("bf16", 0.02), pytest.param("fp16", 0.005, marks=pytest.mark.slow)])
@pytest.mark.parametrize("layout", [{}, {"tp": 2, "pp": 2, "dp": 2, "zero": 1}], ids=["single", "tp2-pp2-dp2-zero"])
def test_half_precision_follows_fp32(full, precision, bound, layout):
    """Losses of about 4.6 within a few units of the last place of what is computed in."""
    ranks = layout.get("tp", 1) * layout.get("pp", 1) * layout.get("dp", 1)
    results = run_ranks(trained, ranks, _config(precision, **layout, initial_loss_scale=2.0**10), STEPS)
    for losses, parameters in results:
        assert losses == results[0][0]
        assert losses == pytest.approx(full, abs=bound)
        assert losses != full
        assert all(p.dtype == torch.float32 for p in parameters.values())


def _messages(config):
    engine = make_engine(config)
    train(engine, 2)
    return engine.mesh.wire.take()


def test_stages_send_each_other_half_as_much():
    (full, *_), (half, *_) = (run_ranks(_messages, 2, _config(p, pp=2)) for p in ("fp32", "bf16"))
    assert half["pp.forward"] * 2 == full["pp.forward"]


@pytest.mark.parametrize("site", ["pp.forward=quantize:bits=8", "tp.forward=powersgd:rank=16,feedback=on"])
def test_codecs_take_half_precision(full, site):
    results = run_ranks(trained, 4, _config("bf16", tp=2, pp=2, compress=(site,)), STEPS)
    assert all(losses == pytest.approx(full, abs=0.2) for losses, _ in results)


def _scales(config, steps):
    """Of every step: the norm, the loss scale, whether parameters changed; and the count of updates."""
    engine = make_engine(config)
    found = []
    for step in range(steps):
        before = {name: p.detach().clone() for name, p in engine.parameters.items()}
        result = engine.step(toy_batch(step, engine.mesh.dp_rank, engine.mesh.dp))
        changed = any(not torch.equal(p, before[name]) for name, p in engine.parameters.items())
        found.append((result.grad_norm, result.loss_scale, changed))
    return found, engine.update.count, engine.iteration


def test_steps_that_overflow_are_left_out_on_every_rank():
    """A scale so large that the first gradients overflow: all ranks skip the same steps, and the scale falls."""
    config = _config("fp16", pp=2, dp=2, initial_loss_scale=2.0**24, hysteresis=1)
    results = run_ranks(_scales, 4, config, 12)
    steps, updates, iteration = results[0]
    skipped = [norm is None for norm, *_ in steps]
    assert skipped[0] and not skipped[-1]
    for index, (norm, scale, changed) in enumerate(steps):
        assert changed == (norm is not None)
        assert scale == 2.0 ** (24 - sum(skipped[:index]))
    assert iteration == 12 and updates == 12 - sum(skipped)
    for other, *rest in results[1:]:
        assert [(norm is None, scale, changed) for norm, scale, changed in other] == [
            (norm is None, scale, changed) for norm, scale, changed in steps
        ]
        assert rest == [updates, iteration]


def _overflow_on_one_rank(config):
    engine = make_engine(config)
    before = {name: p.detach().clone() for name, p in engine.parameters.items()}
    if engine.mesh.dp_rank == 1:
        next(iter(engine.parameters.values())).register_hook(lambda grad: grad / 0)
    (norm, _, _), *_ = _scales_of(engine, 1)
    return norm, engine.update.scale, all(torch.equal(p, before[name]) for name, p in engine.parameters.items())


def _scales_of(engine, steps):
    batches = [toy_batch(step, engine.mesh.dp_rank, engine.mesh.dp) for step in range(steps)]
    return [(result.grad_norm, result.loss_scale, result.lr) for result in map(engine.step, batches)]


@pytest.mark.parametrize("zero", [0, 1])
def test_one_ranks_overflow_is_everyones(zero):
    config = _config("fp16", dp=2, zero=zero, initial_loss_scale=256.0, hysteresis=1)
    assert run_ranks(_overflow_on_one_rank, 2, config) == [(None, 128.0, True)] * 2


def _norms(config):
    return [norm for norm, *_ in _scales_of(make_engine(config), 3)]


def test_the_loss_scale_is_taken_out_of_the_gradients():
    """The norm that clipping sees is the gradients' own."""
    wanted = run_ranks(_norms, 1, _config("fp32"))[0]
    for scale in (16.0, 4096.0):
        found = run_ranks(_norms, 1, _config("fp16", loss_scale=scale))[0]
        assert found == pytest.approx(wanted, rel=0.01)


def _save_then_continue(config, before, after):
    engine = make_engine(config)
    train(engine, before)
    checkpoint.save(engine, None)
    losses = train(engine, after)
    return losses, engine.update.state(), whole_parameters(engine)


def _resume(config, after):
    engine = make_engine(config)
    checkpoint.resume(engine, native.latest(Path(config.run.save)), SILENT)
    losses = train(engine, after)
    return losses, engine.update.state(), whole_parameters(engine)


def test_loss_scale_and_count_of_updates_resume_exactly(tmp_path):
    """Saved amid overflows: Adam's correction counts updates, not steps."""
    config = _config("fp16", initial_loss_scale=2.0**24, hysteresis=1, loss_scale_window=3)
    config = with_run(config, save=str(tmp_path))
    losses, state, parameters = run_ranks(_save_then_continue, 1, config, 8, 6)[0]
    again_losses, again, resumed = run_ranks(_resume, 1, config, 6)[0]
    assert 0 < state["updates"] < 14
    assert (losses, state) == (again_losses, again)
    assert all(torch.equal(parameters[name], resumed[name]) for name in parameters)


def test_a_checkpoint_of_another_optimizer_is_refused(tmp_path):
    run_ranks(_save_then_continue, 1, with_run(_config("fp32"), save=str(tmp_path)), 2, 0)
    other = with_run(_config("fp32", optimizer="sgd"), save=str(tmp_path))
    (what,) = run_ranks(_refusal, 1, other)
    assert "has the state of --optimizer adam, but the run has sgd" in what


def _refusal(config):
    with pytest.raises(UsageError) as caught:
        _resume(config, 1)
    return caught.value.what


def _poisoned(config):
    engine = make_engine(config)
    poisoned = engine.mesh.dp_rank == 1
    complete = engine._complete
    if poisoned:
        name = next(iter(engine.parameters))

        def spoil():
            engine.parameters[name].grad[0] = float("nan")
            complete()

        engine._complete = spoil
    before = {name: p.detach().clone() for name, p in engine.parameters.items()}
    with pytest.raises(MccError, match="the gradients' norm is nan"):
        train(engine, 1)
    return all(torch.equal(p, before[name]) for name, p in engine.parameters.items())


@pytest.mark.parametrize("zero", [0, 1])
def test_gradients_that_are_not_finite_end_the_run_and_touch_nothing(zero):
    assert all(run_ranks(_poisoned, 2, _config("fp32", dp=2, zero=zero)))


def test_codecs_that_would_remember_an_overflow_are_refused():
    for site in ("pp.backward=powersgd:rank=4", "tp.backward=quantize:bits=8,feedback=on"):
        with pytest.raises(UsageError, match="would remember an overflow"):
            check_precision(_config("fp16", compress=(site,)))
        check_precision(_config("bf16", compress=(site,)))
    check_precision(_config("fp16", compress=("pp.backward=quantize:bits=8", "dp.grad=powersgd:rank=4,feedback=on")))


def test_settings_without_effect_are_told():
    config = dataclasses.replace(
        _config("bf16", zero=1, loss_scale=8.0), parallel=ParallelConfig(dp=1, zero=1, sequence_parallel=True)
    )
    told = without_effect(config)
    assert [what.split(" has no effect")[0] for what in told] == ["--zero 1", "--loss-scale", "--sequence-parallel"]
    assert not without_effect(_config("fp16", dp=2, zero=1, loss_scale=8.0))


def _ramped(config, steps):
    """Losses and the samples of each step, under batch-size ramp-up."""
    engine = make_engine(config)
    losses, taken = [], []
    for _ in range(steps):
        at = engine.progress
        # Sample i of the run is sample i % 8 of toy batch i // 8.
        rows = [divmod(at.samples + i, 8) for i in range(at.batch)]
        share = at.batch // engine.mesh.dp
        mine = rows[engine.mesh.dp_rank * share : (engine.mesh.dp_rank + 1) * share]
        batch = {
            key: torch.stack([toy_batch(step, 0, 1, MODEL)[key][row] for step, row in mine])
            for key in ("tokens", "targets")
        }
        losses.append(engine.step(batch).loss)
        taken.append(at.batch)
    return losses, taken, whole_parameters(engine)


@pytest.mark.parametrize("layout", [{"dp": 2}, {"pp": 2}, {"pp": 2, "parallel": {"schedule": "zero-bubble"}}], ids=str)
def test_batches_grow_alike_in_every_layout(layout):
    ramp = {"rampup_batch_size": (4, 4, 20), "global_batch_size": 12, "micro_batch_size": 2}
    wanted_losses, sizes, wanted = run_ranks(_ramped, 1, toy_config(**ramp), 8)[0]
    assert sizes == [4, 4, 4, 8, 12, 12, 12, 12]
    losses, taken, parameters = run_ranks(_ramped, 2, toy_config(**layout, **ramp), 8)[0]
    assert taken == sizes
    assert losses == pytest.approx(wanted_losses, abs=1e-5)
    for name, value in wanted.items():
        assert (parameters[name] - value).norm() / value.norm() < 1e-4, name


def test_codecs_that_remember_send_once() -> None:
    """Recomputed layers send again; the first of these codecs would take the second send for news."""
    full = {"recompute_granularity": "full"}
    for compress, parallel, refused in (
        ("tp.forward=quantize:bits=8,feedback=on", full, True),
        ("tp.forward=powersgd:rank=2", full, True),
        ("tp.forward=quantize:bits=8", full, False),
        ("tp.backward=quantize:bits=8,feedback=on", full, False),
        ("tp.forward=powersgd:rank=2", {"recompute_granularity": "selective"}, False),
    ):
        config = toy_config(tp=2, compress=(compress,), parallel=parallel)
        if refused:
            with pytest.raises(UsageError, match="would remember what --recompute-granularity full sends twice"):
                check_recompute(config)
        else:
            check_recompute(config)
