"""Every layout gives the single process's losses and parameters."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch

from tests.ranks import run_ranks
from tests.train.toy import MODEL, toy_config, trained

# Of a check of every change, and of `make slow`.
STEPS = [5, pytest.param(20, marks=pytest.mark.slow)]


MODELS = {
    "gpt2": dataclasses.replace(MODEL, num_layers=8, num_attention_heads=8),
    "bert": dataclasses.replace(MODEL, family="bert", head="pretraining", num_layers=8, num_attention_heads=8),
    "llama": dataclasses.replace(
        MODEL,
        family="llama",
        num_layers=8,
        num_attention_heads=16,
        num_query_groups=8,
        ffn_hidden_size=48,
        untie_embeddings_and_output_weights=True,
    ),
}
# What is new in other families, each in one layout of four ranks.
OTHERS = {
    "gpt-neox": dataclasses.replace(MODEL, family="gpt-neox", num_layers=8, num_attention_heads=8, rotary_percent=0.5),
    "roberta": dataclasses.replace(MODEL, family="roberta", num_layers=8, num_attention_heads=8, num_tokentypes=1),
}
# Those that every family is tested in; `samples` of a micro-batch, so that steps have few messages.
LAYOUTS: dict[str, dict[str, Any]] = {
    "tp8": {"tp": 8, "samples": 8},
    "pp8": {"pp": 8},
    "dp8": {"dp": 8},
    "cp4": {"cp": 4, "samples": 8},
    "tp2-pp2-dp2": {"tp": 2, "pp": 2, "dp": 2, "samples": 2},
    "tp2-cp2-dp2": {"tp": 2, "cp": 2, "dp": 2, "samples": 4},
    "pp2-cp2-dp2": {"pp": 2, "cp": 2, "dp": 2, "samples": 2},
    "pp4-tp2-interleaved": {"pp": 4, "tp": 2, "vpp": 2, "samples": 2},
    "tp2-dp4-zero1": {"tp": 2, "dp": 4, "zero": 1, "samples": 2},
    "dp4-fully-shard": {"dp": 4, "fully_shard": True, "samples": 2},
    "tp2-sequence-pp2-zbv": {"tp": 2, "pp": 2, "vpp": 2, "sequence_parallel": True, "schedule": "zbv", "samples": 2},
    "tp2-sequence-cp2-recompute": {
        "tp": 2,
        "cp": 2,
        "sequence_parallel": True,
        "recompute_granularity": "full",
        "samples": 4,
    },
}
OF_ONE: dict[str, dict[str, Any]] = {
    "pp4-gpipe": {"pp": 4, "schedule": "gpipe"},
    "pp2-gpipe-looped": {"pp": 2, "vpp": 4, "schedule": "gpipe"},
    "pp2-zero-bubble": {"pp": 2, "schedule": "zero-bubble"},
    "pp2-tp2-zero-bubble-interleaved": {"pp": 2, "tp": 2, "vpp": 2, "schedule": "zero-bubble", "samples": 2},
    "pp2-dp2-dualpipev": {"pp": 2, "dp": 2, "vpp": 2, "schedule": "dualpipev"},
    "pp3-uneven": {"pp": 3, "stages": "4,3,1"},
    "pp4-empty-last": {"pp": 4, "stages": "3,3,2,0"},
    "pp2-recompute-selective": {"pp": 2, "recompute_granularity": "selective"},
}
EVERY = ("tp2-cp2-dp2", "pp4-tp2-interleaved", "dp4-fully-shard", "tp2-sequence-pp2-zbv")
CASES: list[Any] = [("gpt2", name) for name in (*LAYOUTS, *OF_ONE)]
CASES += [
    pytest.param(family, name, marks=() if name in EVERY else pytest.mark.slow)
    for family in ("bert", "llama")
    for name in LAYOUTS
]
CASES += [("gpt-neox", "tp2-sequence-pp2-zbv"), ("roberta", "tp2-sequence-cp2-recompute")]


@pytest.fixture(scope="module")
def single():
    found = {}

    def of(family, steps):
        if (family, steps) not in found:
            model = {**MODELS, **OTHERS}[family]
            found[family, steps] = run_ranks(trained, 1, toy_config(model=model), steps)[0]
        return found[family, steps]

    return of


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize(("family", "layout"), CASES)
def test_layout_equals_single_process(single, family, layout, steps):
    losses, parameters = single(family, steps)
    more = {**LAYOUTS, **OF_ONE}[layout].copy()
    sizes = {axis: more.pop(axis, 1) for axis in ("tp", "pp", "dp")}
    ranks = math.prod(sizes.values()) * more.get("cp", 1)
    samples = more.pop("samples", 1)
    config = toy_config(**sizes, parallel=more, model={**MODELS, **OTHERS}[family], micro_batch_size=samples)
    found = run_ranks(trained, ranks, config, steps)
    for rank_losses, rank_parameters in found:
        assert rank_losses == pytest.approx(losses, abs=1e-5)
        assert rank_parameters.keys() == parameters.keys()
        for name, whole in parameters.items():
            error = (rank_parameters[name] - whole).norm() / whole.norm()
            assert error < 1e-4, f"{name}: {error}"


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_toy_run_learns(single, family):
    losses, _ = single(family, 20)
    assert losses[-1] < losses[0] - 0.3
    assert torch.isfinite(torch.tensor(losses)).all()
