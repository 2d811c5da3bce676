"""Codecs that are trained with the model, against plain torch on one process, and in checkpoints."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from mcc.ckpt import native
from mcc.ckpt.convert import convert, merge
from mcc.ckpt.format import open_checkpoint
from mcc.ckpt.load import load_model
from mcc.ckpt.summary import inspect
from mcc.core.errors import UsageError
from mcc.models.base.axes import Axes
from mcc.models.base.family import count_parameters, families
from mcc.models.base.init import initialize, xavier
from mcc.models.base.layers import RowParallel
from mcc.train import checkpoint
from mcc.train.compress.spec import parse, parse_all
from mcc.train.optim import optimizers
from mcc.train.optim.schedule import LearningRate
from mcc.train.parallel.stages import cut
from mcc.train.parallel.trained import check_trained
from mcc.train.sources.source import Evaluation, Source
from tests.ranks import run_ranks
from tests.slow import of_every_change
from tests.train.toy import MODEL, make_engine, toy_batch, toy_config, train, whole_parameters, with_run

TP = ("tp.forward=autoencoder:dim=6",)
PP = ("pp.forward=autoencoder:dim=10",)
STEPS = 5


def reference(config, steps, boundaries=()):
    """Losses and parameters of the same model in plain torch on one process: x E^T D^T in place of what is sent."""
    family, model = families.get(config.model.family)(), config.model
    stage = family.build(model, Axes(), range(model.num_layers))
    initialize(stage, family, config.run.seed)
    parameters = dict(stage.named_parameters())

    def codec(place, dim):
        shapes = {"encoder": (dim, model.hidden_size), "decoder": (model.hidden_size, dim)}
        both = {
            f"{place}.{end}": nn.Parameter(xavier(f"{place}.{end}", s, config.run.seed)) for end, s in shapes.items()
        }
        parameters.update(both)
        encoder, decoder = both.values()
        return lambda x: x @ encoder.T @ decoder.T

    compress = parse_all(config.compress)
    for name, module in stage.named_modules():
        if isinstance(module, RowParallel) and "tp.forward" in compress:
            through = codec(f"{name}.codec", compress["tp.forward"].options.dim)
            module.forward = lambda x, m=module, go=through: go(x @ m.weight.T) + m.bias
    for index in boundaries:
        through, layer = codec(f"boundaries.{index}", compress["pp.forward"].options.dim), stage.layers[str(index)]
        layer.forward = lambda *args, run=layer.forward, go=through: go(run(*args))
    optimizer, rate = optimizers.build(parameters, config.optim), LearningRate(config.optim, config.run.sizes, 20)
    losses = []
    for step in range(steps):
        batch = toy_batch(step, 0, 1, model)
        loss = F.cross_entropy(
            stage(batch["tokens"])[..., : model.vocab_size].flatten(0, 1), batch["targets"].flatten()
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), config.optim.clip_grad)
        optimizers.set_learning_rate(optimizer, rate(step))
        optimizer.step()
        losses.append(loss.item())
    found = {name: p.detach().clone() for name, p in parameters.items()}
    found["embedding.tokens.weight"] = found["embedding.tokens.weight"][: model.vocab_size]
    return losses, found


def _trained(config, steps):
    """Losses, whole parameters, and whether every replicated parameter is the same on all ranks that hold it."""
    torch.manual_seed(0)
    engine = make_engine(config)
    losses = train(engine, steps)
    mine: dict[str, Any] = {} if engine.full else {n: p.detach().clone() for n, p in engine.parameters.items()}
    alike = {name: tensor for name, tensor in mine.items() if engine.family.row(name).tp_dim is None}
    ranks: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(ranks, alike)
    drifted = [n for other in ranks for n, t in other.items() if n in alike and not torch.equal(t, alike[n])]
    return losses, whole_parameters(engine), drifted


LAYOUTS: dict[str, dict[str, Any]] = {
    "one": {},
    "tp2": {"tp": 2},
    "tp2-sequence-dp2-zero1": {"tp": 2, "dp": 2, "parallel": {"sequence_parallel": True, "zero": 1}},
    "tp2-cp2-recompute": {"tp": 2, "parallel": {"cp": 2, "recompute_granularity": "full"}},
    "dp2-fully-shard": {"dp": 2, "parallel": {"fully_shard": True}},
}
SLOW = ("tp2", "tp2-cp2-recompute")


def _ranks(layout):
    return layout.get("tp", 1) * layout.get("pp", 1) * layout.get("dp", 1) * layout.get("parallel", {}).get("cp", 1)


@pytest.fixture(scope="module")
def tp_reference():
    return reference(toy_config(compress=TP), STEPS)


@pytest.mark.parametrize("name", of_every_change(LAYOUTS, LAYOUTS.keys() - SLOW))
def test_tp_equals_plain_torch(name, tp_reference):
    losses, parameters = tp_reference
    layout = LAYOUTS[name]
    for found, whole, drifted in run_ranks(_trained, _ranks(layout), toy_config(compress=TP, **layout), STEPS):
        assert found == pytest.approx(losses, abs=1e-5)
        assert whole.keys() == parameters.keys()
        assert not drifted
        for key, value in whole.items():
            # Gradients of sums in another order, made steps of by Adam.
            assert (value - parameters[key]).norm() / parameters[key].norm() < 1e-3, key
    moved = parameters["layers.0.mlp.down.codec.encoder"] - xavier("layers.0.mlp.down.codec.encoder", (6, 32), 1234)
    assert moved.norm() > 1e-2


PIPELINES: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "pp2-dp2-zero1": ({"pp": 2, "dp": 2, "parallel": {"zero": 1}}, (1,)),
    "pp2-tp2-sequence": ({"pp": 2, "tp": 2, "parallel": {"sequence_parallel": True}}, (1,)),
    "pp2-interleaved-dp2-fully-shard": ({"pp": 2, "dp": 2, "parallel": {"vpp": 2, "fully_shard": True}}, (0, 1, 2)),
    # The second and the third stage share a rank.
    "pp2-zbv-recompute": (
        {"pp": 2, "parallel": {"vpp": 2, "schedule": "zbv", "recompute_granularity": "full"}},
        (0, 2),
    ),
    "pp3-empty-last": ({"pp": 3, "parallel": {"stages": "3,1,0", "schedule": "gpipe"}}, (2, 3)),
}


@pytest.mark.parametrize("name", of_every_change(PIPELINES, [name for name in PIPELINES if "dp2" not in name]))
def test_pp_equals_plain_torch(name):
    layout, boundaries = PIPELINES[name]
    losses, parameters = reference(toy_config(compress=(*PP, *TP)[: 2 if "tp2" in name else 1]), STEPS, boundaries)
    config = toy_config(compress=(*PP, *TP) if "tp2" in name else PP, **layout)
    for found, whole, drifted in run_ranks(_trained, _ranks(layout), config, STEPS):
        assert found == pytest.approx(losses, abs=1e-5)
        assert whole.keys() == parameters.keys()
        assert not drifted
        for key, value in whole.items():
            assert (value - parameters[key]).norm() / parameters[key].norm() < 1e-3, key


def test_pp_bytes_shrink_by_the_channels_and_its_gradients_have_a_codec():
    """The gradient of what was sent comes back: as it is, or coded by what `pp.backward` is given."""
    eight = "pp.forward=autoencoder:dim=8"
    dense, coded, both = (
        run_ranks(_bytes, 2, toy_config(pp=2, compress=compress))
        for compress in ((), (eight,), (eight, "pp.backward=quantize:bits=8,scale=tensor"))
    )
    assert coded[0]["pp.forward"] * MODEL.hidden_size == dense[0]["pp.forward"] * 8
    assert coded[1]["pp.backward"] * MODEL.hidden_size == dense[1]["pp.backward"] * 8
    assert both[1]["pp.backward"] * 4 == coded[1]["pp.backward"] + 4 * 16 * 2  # 16 messages with a scale of 2 bytes


def _bytes(config):
    engine = make_engine(config)
    train(engine, 2)
    return engine.mesh.wire.take()


@pytest.mark.parametrize("sequence", [False, True])
def test_tp_bytes_shrink_by_the_channels(sequence):
    parallel = {"sequence_parallel": sequence}
    dense = run_ranks(_bytes, 2, toy_config(tp=2, parallel=parallel))[0]
    coded = run_ranks(_bytes, 2, toy_config(tp=2, compress=("tp.forward=autoencoder:dim=8",), parallel=parallel))[0]
    if not sequence:
        assert coded["tp.forward"] * MODEL.hidden_size == dense["tp.forward"] * 8
        assert coded["tp.backward"] == dense["tp.backward"]
        return
    # Half of each direction is the sum's, the other half gathers tokens of whole width where a region begins.
    for site in ("tp.forward", "tp.backward"):
        assert coded[site] * MODEL.hidden_size == dense[site] * (8 + MODEL.hidden_size) / 2


def _save(config, steps):
    engine = make_engine(config)
    losses = train(engine, steps)
    checkpoint.save(engine, None)
    return losses


def _resume(config, steps):
    engine, warnings = make_engine(config), []
    reporter = SimpleNamespace(warn=warnings.append, note=lambda text: None)
    checkpoint.resume(engine, native.latest(Path(config.run.save)), reporter)
    return train(engine, steps), whole_parameters(engine), warnings


def test_tp_resumes_bit_for_bit_and_in_other_layouts(tmp_path):
    config = with_run(toy_config(tp=2, compress=TP), save=str(tmp_path))
    losses, whole, _ = run_ranks(_trained, 2, config, 5)[0]
    assert run_ranks(_save, 2, config, 3)[0] == losses[:3]
    after, resumed, warnings = run_ranks(_resume, 2, config, 2)[0]
    assert after == losses[3:]
    assert not warnings
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    for layout in ({"tp": 4}, {"pp": 2}):
        other = with_run(toy_config(compress=TP, **layout), save=str(tmp_path))
        after, _, warnings = run_ranks(_resume, _ranks(layout), other, 2)[0]
        assert after == pytest.approx(losses[3:], abs=1e-5)
        assert not warnings
    dense = with_run(toy_config(), save=str(tmp_path))
    _, resumed, (warning,) = run_ranks(_resume, 1, dense, 1)[0]
    assert "layers.0.attention.out.codec" in warning and "dropped" in warning
    assert not any("codec" in name for name in resumed)
    wider = with_run(toy_config(compress=("tp.forward=autoencoder:dim=9",)), save=str(tmp_path))
    _, resumed, warnings = run_ranks(_resume, 1, wider, 0)[0]
    assert ["dropped" in text or "afresh" in text for text in warnings] == [True, True]
    assert torch.equal(
        resumed["layers.0.mlp.down.codec.encoder"], xavier("layers.0.mlp.down.codec.encoder", (9, 32), 1234)
    )


def test_pp_resumes_bit_for_bit_and_boundaries_are_the_layouts(tmp_path):
    config = with_run(toy_config(pp=2, compress=PP), save=str(tmp_path))
    losses, whole, _ = run_ranks(_trained, 2, config, 5)[0]
    assert run_ranks(_save, 2, config, 3)[0] == losses[:3]
    after, resumed, warnings = run_ranks(_resume, 2, config, 2)[0]
    assert after == losses[3:]
    assert not warnings
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    split = with_run(toy_config(pp=2, tp=2, compress=PP), save=str(tmp_path))
    after, _, warnings = run_ranks(_resume, 4, split, 2)[0]
    assert after == pytest.approx(losses[3:], abs=1e-5)
    assert not warnings
    three = with_run(toy_config(pp=3, compress=PP), save=str(tmp_path))  # boundaries after layers 1 and 2
    _, _, (warning,) = run_ranks(_resume, 3, three, 1)[0]
    assert "boundaries.2 begin" in warning and "boundaries.1" not in warning
    moved = with_run(toy_config(pp=2, compress=PP, parallel={"stages": "1,3"}), save=str(tmp_path))
    _, _, (dropped, fresh) = run_ranks(_resume, 2, moved, 1)[0]
    assert "boundaries.1" in dropped and "dropped" in dropped and "boundaries.0 begin" in fresh
    # One process computes what the pipeline does.
    model = load_model(tmp_path).model
    batch = toy_batch(3, 0, 1)
    loss = F.cross_entropy(model(batch["tokens"])[..., : MODEL.vocab_size].flatten(0, 1), batch["targets"].flatten())
    assert loss.item() == pytest.approx(losses[3], abs=1e-5)


class _Held(Source):
    """Eight samples that are not trained on."""

    seq_length = MODEL.seq_length

    def __len__(self):
        return 8

    def take(self, samples):
        return {name: tensor[list(samples)] for name, tensor in toy_batch(99, 0, 1).items()}


def _evaluated(config):
    engine = make_engine(config)
    return engine.evaluate(Evaluation("heldout", _Held(), 8))["loss"]


def test_evaluation_goes_around_it():
    """Fresh weights of the model are the same with and without."""
    (dense,) = run_ranks(_evaluated, 1, toy_config())
    for loss in run_ranks(_evaluated, 4, toy_config(tp=2, pp=2, compress=(*TP, *PP))):
        assert loss == pytest.approx(dense, abs=1e-5)


def _loaded(config, path):
    engine, warnings = make_engine(config), []
    checkpoint.load_weights(engine, path, SimpleNamespace(warn=warnings.append, note=lambda text: None))
    return whole_parameters(engine), warnings


def test_conversions_keep_or_name_what_was_trained(tmp_path):
    run, safe, back, hf = (tmp_path / name for name in ("run", "safe", "back", "hf"))
    config = with_run(toy_config(compress=TP), save=str(run))
    run_ranks(_save, 1, config, 2)
    places = [f"layers.{i}.{place}.codec" for i in range(4) for place in ("attention.out", "mlp.down")]
    assert inspect(run).parameters == count_parameters(MODEL) + len(places) * 2 * 6 * MODEL.hidden_size
    assert merge(run, safe).dropped == ("optimizer state",)
    assert not convert(run, back, "mcc").dropped
    first, second, third = (open_checkpoint(path) for path in (run, safe, back))
    for name in first.shapes():
        assert torch.equal(first.read(name), second.read(name))
        assert torch.equal(first.read(name), third.read(name))
    assert torch.equal(
        first.read_slot("exp_avg", f"{places[0]}.encoder"), third.read_slot("exp_avg", f"{places[0]}.encoder")
    )
    for path in (run, safe):  # the model computes as it was trained
        model = load_model(path).model
        assert dict(model.named_parameters()).keys() == first.shapes().keys()
    ((weights, warnings),) = run_ranks(_loaded, 1, toy_config(compress=TP), safe)
    assert not warnings
    assert all(torch.equal(weights[name], first.read(name)) for name in weights)
    for format in ("hf", "megatron"):
        report = convert(run, tmp_path / format, format)
        assert any(all(place in what for place in places) for what in report.dropped)
        assert report.tensors == len(first.shapes()) - 2 * len(places)
    assert not any("codec" in name for name in open_checkpoint(hf).shapes())


def test_what_makes_no_sense_is_refused():
    for site in ("tp.backward", "dp.grad"):
        with pytest.raises(UsageError, match="trained by what the model computes forward"):
            parse(f"{site}=autoencoder:dim=4")
    with pytest.raises(UsageError, match="nothing for feedback to add"):
        parse("tp.forward=autoencoder:dim=4,feedback=on")
    stages = cut(MODEL, 2)
    for text, message in (
        ("tp.forward=autoencoder:dim=32", "dim=32 sends no fewer channels than the hidden size, 32"),
        ("pp.forward=autoencoder:dim=8,warmup=2", "one shape for the whole run"),
    ):
        with pytest.raises(UsageError, match=message):
            check_trained(parse_all([text]), MODEL, stages)
    with pytest.raises(UsageError, match="every stage but the last needs a layer"):
        check_trained(parse_all(PP), MODEL, cut(MODEL, 3, shares="2,0,2"))
    check_trained(parse_all([*TP, *PP]), MODEL, stages)
