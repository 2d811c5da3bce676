"""Compressed gradients and weights of sharded optimizers: replicas alike, masters exact, resumed bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mcc.ckpt import native
from mcc.ckpt.format import open_checkpoint
from mcc.core.errors import UsageError
from mcc.core.events import SILENT
from mcc.train import checkpoint
from mcc.train.compress.spec import parse
from mcc.train.parallel.fully_shard import check_fully_shard
from mcc.train.prepare import check_zero
from tests.ranks import run_ranks
from tests.train.toy import make_engine, toy_config, train, whole_parameters, with_run

GRADS = "zero.grads=quantize:bits=4,scale=block,feedback=on"
DIRECT, DIFFERENCE = "zero.weights=quantize:bits=8,scale=block", "zero.weights=quantize:bits=3,of=difference"


def _state(engine):
    """This rank's place, what it computes with, and what it sent."""
    mesh = engine.mesh
    held = {name: p.detach().clone() for name, p in engine.parameters.items()}
    alike = [name for name in held if engine.family.row(name).tp_dim is None]
    return (mesh.pp_rank, mesh.replica, mesh.tp_rank), held, alike, mesh.wire.take()


def _trained(configs, steps):
    found = []
    for config in configs:
        torch.manual_seed(0)
        engine = make_engine(config)
        losses = train(engine, steps)
        found.append((losses, whole_parameters(engine), *_state(engine)))
    return found


def _config(*compress, tp=1, pp=1, dp=2, **parallel):
    return toy_config(tp, pp, dp, compress, parallel={"zero": 1, **parallel})


def test_the_identity_is_dense_bit_for_bit():
    identity = ("zero.grads=none", "zero.weights=none")
    for ranks, layouts in ((4, ({"dp": 4}, {"pp": 2}, {"pp": 2, "zero": 0, "fully_shard": True})),):
        configs = [_config(*compress, **layout) for layout in layouts for compress in ((), identity)]
        for found in run_ranks(_trained, ranks, configs, 3):
            for dense, coded in zip(found[::2], found[1::2], strict=True):
                assert dense[0] == coded[0]
                assert all(torch.equal(dense[1][name], coded[1][name]) for name in dense[1])


@pytest.mark.parametrize("weights", [DIRECT, DIFFERENCE])
def test_replicas_and_copies_stay_alike_and_learn(weights):
    """Two tensor-parallel ranks and both copies of the embedding, too."""
    dense, coded = _config(tp=2, pp=2), _config(GRADS, weights, tp=2, pp=2)
    results = run_ranks(_trained, 8, [dense, coded], 12)
    places = {place: held for _, (_, _, place, held, _, _) in results}
    tied = "embedding.tokens.weight"
    for (wanted, _, _, _, _, sent_dense), (losses, _, (pp, _, tp), held, alike, sent) in results:
        assert losses == pytest.approx(wanted, abs=0.1)
        assert losses != wanted
        for name, value in held.items():
            assert torch.equal(value, places[pp, 0, tp][name]), name
        for name in alike:
            assert torch.equal(held[name], places[pp, 0, 0][name]), name
        assert torch.equal(places[0, 0, tp][tied], places[1, 0, tp][tied])
        assert sent["zero.grads"] < 0.25 * sent_dense["zero.grads"]
        assert sent["zero.weights"] < 0.4 * sent_dense["zero.weights"]


def _weights(config, steps):
    """How far what replicas hold is from the owners' rows, before training and after each step."""
    engine = make_engine(config)
    found = []
    for step in range(steps):
        train(engine, 1)
        if step == steps - 1:  # nothing new: what is missing is sent again and again
            for _ in range(8):
                engine.zero.gather()
        zero = engine.zero
        far = [
            float((owned - engine.parameters[name].data[slice(*zero.rows(name))]).abs().max())
            for name, owned in zero.owned.items()
        ]
        found.append(max(far))
    before = {name: p.detach().clone() for name, p in engine.parameters.items()}
    with zero.exact():
        for name, owned in zero.owned.items():
            assert torch.equal(owned, engine.parameters[name][slice(*zero.rows(name))])
    assert all(torch.equal(p, before[name]) for name, p in engine.parameters.items())
    return found


def test_differences_converge_to_the_exact_weights():
    """3 bits leave at most an eighth of a row's largest difference each time; whole weights stay half a level off."""
    for difference in run_ranks(_weights, 2, _config(DIFFERENCE), 3):
        assert 0 < difference[0] < 1e-3  # an eighth of a step of Adam at the warm-up's rate, or less
        assert difference[-1] < 1e-7
    for whole in run_ranks(_weights, 2, _config(DIRECT), 2):
        assert whole[-1] > 1e-5


def _train_and_save(config, steps, evaluated=False):
    engine = make_engine(config)
    losses = train(engine, steps)
    checkpoint.save(engine, None)
    return losses


def _resume(config, steps):
    engine = make_engine(config)
    checkpoint.resume(engine, native.latest(Path(config.run.save)), SILENT)
    return train(engine, steps), _state(engine)


SHARDED = {"zero": 0, "fully_shard": True}


def _places(config, steps):
    engine = make_engine(config)
    train(engine, steps)
    return _state(engine)


@pytest.mark.parametrize(
    ("ranks", "config"),
    [
        (4, _config("zero.grads=sign:feedback=on", tp=2, sequence_parallel=True, **SHARDED)),
        (8, _config("zero.weights=hadamard:of=difference", tp=2, pp=2, stages="4,0")),
    ],
    ids=["gradients of parts of the tokens", "a stage of the embedding's copy alone"],
)
def test_what_several_ranks_hold_is_coded_alike(ranks, config):
    found = run_ranks(_places, ranks, config, 3)
    places = {place: held for place, held, _, _ in found}
    for (pp, dp, _), held, alike, _ in found:
        for name in alike:
            assert torch.equal(held[name], places[pp, dp, 0][name]), name
    tied = "embedding.tokens.weight"
    for tp in range(2):
        assert torch.equal(places[0, 0, tp][tied], places[config.parallel.pp - 1, 0, tp][tied])


@pytest.mark.parametrize(
    "config",
    [_config(GRADS, DIFFERENCE, pp=2), _config(GRADS, DIRECT, tp=2, **SHARDED)],
    ids=["zero", "fully-shard"],
)
def test_resumed_equals_uninterrupted_and_checkpoints_are_exact(tmp_path, config):
    config = with_run(config, save=str(tmp_path))
    straight = run_ranks(_resume_nothing, 4, config, 5)
    before = run_ranks(_train_and_save, 4, config, 3)
    stored = open_checkpoint(native.latest(tmp_path))
    after = run_ranks(_resume, 4, config, 2)
    places = {place: held for _, (place, held, _, _) in straight}
    for whole, first, (second, (_, resumed, *_)) in zip(straight, before, after, strict=True):
        losses, ((_, dp, _), held, alike, _) = whole
        assert first + second == losses
        assert all(torch.equal(held[name], resumed[name]) for name in held)
        if config.parallel.tp > 1:
            assert all(torch.equal(held[name], places[0, dp, 0][name]) for name in alike)
    # The masters are no multiples of a level: a run without codecs continues from them.
    plain = with_run(toy_config(), save=str(tmp_path))
    native_losses = run_ranks(_resume, 1, plain, 1)[0][0]
    assert native_losses == pytest.approx(after[0][0][:1], abs=0.05)
    assert stored.shapes()


def _resume_nothing(config, steps):
    engine = make_engine(config)
    return train(engine, steps), _state(engine)


def test_what_makes_no_sense_is_refused():
    for text, why in (
        ("zero.grads=powersgd:rank=4", "powersgd approximates matrices"),
        ("zero.weights=quantize:bits=4,feedback=on", "of=difference sends again"),
        ("zero.weights=topk:ratio=0.1", "leaves out would be zero"),
        ("zero.weights=randomk:rescale=on,of=difference", "feedback's error would grow"),
        ("zero.weights=quantize:of=gradient", "of=gradient is not known"),
        ("pp.forward=quantize:of=weights", "carries one thing alone|is not known"),
    ):
        with pytest.raises(UsageError, match=why):
            parse(text)
    with pytest.raises(UsageError, match="each where its owner is"):
        check_zero(_config("dp.grad=quantize", GRADS))
    with pytest.raises(UsageError, match="hold nothing"):
        check_fully_shard(_config(DIFFERENCE, **SHARDED))
    late = "tp.forward=autoencoder:dim=8,warmup=2"
    check_fully_shard(_config(late, **SHARDED))
    with pytest.raises(UsageError, match="codec has none until it begins"):
        check_fully_shard(_config(GRADS, late, **SHARDED))
    with pytest.raises(UsageError, match="would remember an overflow"):
        check_fully_shard(with_run(_config(GRADS, **SHARDED), precision="fp16"))
