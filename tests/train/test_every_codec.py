"""Every codec at every site that takes it, in a run of several ranks: it learns, nothing hangs, replicas stay alike."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch

from mcc.core.errors import UsageError
from mcc.train.compress.codec import codecs
from mcc.train.compress.spec import SITES, parse
from mcc.train.config import TrainConfig
from mcc.train.engine import Engine
from mcc.train.layout import make_mesh
from tests.ranks import run_ranks
from tests.train.toy import MODEL, toy_batch, toy_config

TINY = dataclasses.replace(MODEL, num_layers=2, hidden_size=16, num_attention_heads=2, seq_length=8)
TIED = "embedding.tokens.weight"
STEPS = 3
# What a codec needs to have something left of tensors as small as these.
OPTIONS = {"autoencoder": ["dim=5"], "powersgd": ["rank=2"], "randomk": ["ratio=0.3"], "topk": ["ratio=0.3"]}
LAYOUTS: dict[str, tuple[dict[str, int], dict[str, Any], tuple[str, ...]]] = {
    "tp2": ({"tp": 2}, {}, ("tp.forward", "tp.backward")),
    "pp2": ({"pp": 2}, {}, ("pp.forward", "pp.backward", "embedding")),
    "cp2": ({}, {"cp": 2}, ("cp.kv",)),
    "tp2-dp2": ({"tp": 2, "dp": 2}, {}, ("dp.grad",)),
    "zero1": ({"dp": 2}, {"zero": 1}, ("zero.grads", "zero.weights")),
    "fully-shard": ({"dp": 2}, {"fully_shard": True}, ("zero.grads", "zero.weights")),
}
WRAPPERS = {"dp.grad": "of=momentum,warmup=1", "zero.weights": "of=difference"}


def _accepted(site: str, sharded: bool) -> list[str]:
    """What `--compress` takes at a site: each codec as it is, with feedback, and with what the site may carry else."""
    found = []
    for name, _ in codecs.all():
        for wrapper in ("", "feedback=on", WRAPPERS.get(site, "")):
            if sharded and wrapper:  # feedback and differences need what --fully-shard does not keep
                continue
            text = f"{site}={name}:" + ",".join(filter(None, [*OPTIONS.get(name, []), wrapper]))
            try:
                parse(text)
            except UsageError:
                continue
            if text not in found:
                found.append(text)
    return found


def _config(axes: dict[str, int], text: str, parallel: dict[str, Any]) -> TrainConfig:
    size = 4 if "pp" in axes else 8 // axes.get("dp", 1)  # as few messages as there may be
    return toy_config(**axes, compress=(text,), parallel=parallel, model=TINY, micro_batch_size=size)


def _trained(configs: list[TrainConfig]) -> list[Any]:
    """Of each: this rank's place, losses, parameters, those that tensor-parallel ranks share, and bytes by site."""
    mesh = make_mesh(configs[0])
    found = []
    for config in configs:
        torch.manual_seed(0)
        mesh.wire.take()
        engine = Engine(config, mesh)
        losses = []
        for _ in range(STEPS):
            batch = toy_batch(0, mesh.dp_rank, mesh.dp, TINY)
            batch["ids"] = torch.arange(8).chunk(mesh.dp)[mesh.dp_rank]
            losses.append(engine.step(batch).loss)
        held = {name: p.detach().clone() for name, p in engine.parameters.items()}
        alike = [name for name in held if engine.family.row(name).tp_dim is None]
        place = mesh.pp_rank, mesh.replica, mesh.tp_rank
        found.append((place, losses, held, alike, mesh.wire.take()))
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_accepted_pair_trains(layout):
    axes, parallel, sites = LAYOUTS[layout]
    texts = [text for site in sites for text in _accepted(site, layout == "fully-shard")]
    configs = [_config(axes, text, parallel) for text in texts]
    ranks = math.prod(axes.values()) * parallel.get("cp", 1)
    by_rank = run_ranks(_trained, ranks, configs, limit_s=280)
    for text, results in zip(texts, zip(*by_rank, strict=True), strict=True):
        places = {place: held for place, _, held, _, _ in results}
        site = text.partition("=")[0]
        assert any(sent.get(site) for *_, sent in results), f"{text}: nothing was sent there"
        for (pp, replica, tp), losses, held, alike, _ in results:
            assert losses == results[0][1] and all(map(math.isfinite, losses)), f"{text}: {losses}"
            # One step's variance, frozen, is no measure of the others.
            assert losses[-1] < losses[0] or "momentum" in text, f"{text}: {losses}"
            assert all(value.isfinite().all() for value in held.values()), text
            if layout == "fully-shard":
                continue  # each replica has rows of its own
            assert all(torch.equal(value, places[pp, 0, tp][name]) for name, value in held.items()), text
            assert all(torch.equal(held[name], places[pp, replica, 0][name]) for name in alike), text
            assert TIED not in held or torch.equal(held[TIED], places[0, 0, tp][TIED]), text


def test_no_site_is_left_out():
    assert {site for _, _, sites in LAYOUTS.values() for site in sites} == set(SITES)
