"""Codecs at all sites at once: replicas never drift, and evaluation in between changes nothing."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from mcc.train.prepare import check_precision
from mcc.train.sources.source import Evaluation
from tests.ranks import run_ranks
from tests.train.toy import MODEL, make_engine, toy_batch, toy_config, train

TINY = dataclasses.replace(MODEL, num_layers=2, hidden_size=16, num_attention_heads=2, seq_length=8)
TIED = "embedding.tokens.weight"
SHARDED = (
    "tp.forward=quantize:bits=6",
    "tp.backward=fp8",
    "pp.forward=topk:ratio=0.4",
    "pp.backward=powersgd:rank=4,feedback=on",
    "embedding=sign:scale=tensor,feedback=on",
    "zero.grads=quantize:bits=4,scale=block,feedback=on",
    "zero.weights=quantize:bits=4,of=difference",
)
ROUND = (
    "pp.forward=quantize:bits=4",
    "pp.backward=quantize:bits=8",
    "cp.kv=quantize:bits=6",
    "dp.grad=sign:feedback=on,of=momentum,warmup=3",
    "embedding=quantize:bits=8,feedback=on",
)


def _trained(config, steps, evaluate_every=0):
    """This rank's place, its losses and parameters, those that tensor-parallel ranks share, and evaluations' losses."""
    torch.manual_seed(0)
    engine = make_engine(config)
    source = SimpleNamespace(batch=lambda first, size, replica, replicas: toy_batch(99, replica, replicas, TINY))
    evaluation = Evaluation(name="held-out", source=source, samples=8)
    losses, found = [], []
    for step in range(steps):
        losses += train(engine, 1)
        if evaluate_every and step % evaluate_every == 0:
            found.append(engine.evaluate(evaluation)["loss"])
    # Not only steps that were left out, and with fp16 some.
    assert 0 < engine.update.count <= steps - (config.run.precision == "fp16")
    mesh = engine.mesh
    alike = [name for name in engine.parameters if engine.family.row(name).tp_dim is None]
    held = {name: p.detach().clone() for name, p in engine.parameters.items()}
    return (mesh.pp_rank, mesh.replica, mesh.tp_rank), losses, held, alike, found


def _overflows_first(config):
    """A first loss scale at which fp16 leaves out some of the first steps, and makes updates soon."""
    return dataclasses.replace(
        config, optim=dataclasses.replace(config.optim, initial_loss_scale=2.0**20, hysteresis=1)
    )


def _none_drifted(results):
    places = {place: held for place, _, held, _, _ in results}
    for (pp, replica, tp), losses, held, alike, _ in results:
        assert losses == results[0][1]
        for name, value in held.items():
            assert torch.equal(value, places[pp, 0, tp][name]), f"{name} of replica {replica}"
        for name in alike:
            assert torch.equal(held[name], places[pp, 0, 0][name]), f"{name} of tensor-parallel rank {tp}"
        assert TIED not in held or torch.equal(held[TIED], places[0, 0, tp][TIED])


@pytest.mark.parametrize("steps", [40, pytest.param(200, marks=pytest.mark.slow)])
def test_replicas_never_drift(steps):
    """TP2 x PP2 x DP2, everything compressed."""
    config = toy_config(2, 2, 2, SHARDED, {"zero": 1, "schedule": "gpipe"}, TINY, micro_batch_size=4, train_iters=steps)
    results = run_ranks(_trained, 8, config, steps, limit_s=400)
    _none_drifted(results)
    losses = results[0][1]
    assert steps < 200 or sum(losses[-10:]) < 0.8 * sum(losses[:10])


@pytest.mark.parametrize(
    ("compress", "axes", "parallel"),
    [(SHARDED, (2, 2, 2), {"zero": 1}), (ROUND, (1, 2, 2), {"cp": 2})],
    ids=["tp2-pp2-dp2", "pp2-cp2-dp2"],
)
def test_replicas_never_drift_in_fp16(compress, axes, parallel):
    # What would remember an overflow is refused; and the momentum's variance needs updates before it is frozen.
    changed = {"pp.backward=powersgd:rank=4,feedback=on": "pp.backward=quantize:bits=8"}
    compress = tuple(changed.get(text, text).replace("warmup=3", "warmup=6") for text in compress)
    config = toy_config(*axes, compress, parallel, TINY, micro_batch_size=2, precision="fp16", train_iters=10)
    check_precision(config)
    _none_drifted(run_ranks(_trained, 8, _overflows_first(config), 10))


@pytest.mark.parametrize(
    ("compress", "layout", "precision"),
    [
        (ROUND, {"pp": 2, "dp": 2, "cp": 2, "vpp": 2, "recompute_granularity": "full"}, "bf16"),
        (SHARDED[:3], {"tp": 2, "dp": 2, "fully_shard": True}, "fp16"),
    ],
    ids=["round", "fully-shard"],
)
def test_evaluation_in_between_changes_nothing(compress, layout, precision):
    if "fully_shard" in layout:
        compress = (*SHARDED[:2], "zero.grads=quantize:bits=8", "zero.weights=fp8:scale=block")
    axes = {axis: layout.pop(axis, 1) for axis in ("tp", "pp", "dp")}
    model = dataclasses.replace(TINY, num_layers=4)
    config = toy_config(**axes, compress=compress, parallel=layout, model=model, precision=precision)
    if precision == "fp16":
        config = _overflows_first(config)
    ranks = axes["tp"] * axes["pp"] * axes["dp"] * layout.get("cp", 1)
    plain, evaluated = (run_ranks(_trained, ranks, config, 6, every) for every in (0, 2))
    for (_, losses, held, *_), (_, losses_too, held_too, _, found) in zip(plain, evaluated, strict=True):
        assert losses == losses_too and len(found) == 3
        assert all(torch.equal(value, held_too[name]) for name, value in held.items())
    if "fully_shard" not in layout:
        _none_drifted(plain)
