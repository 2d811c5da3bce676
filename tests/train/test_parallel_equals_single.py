"""Every layout gives the single process's losses and parameters."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from tests.ranks import run_ranks
from tests.train.toy import MODEL, toy_config, trained

STEPS = 20


DEEP = dataclasses.replace(MODEL, num_layers=8, num_attention_heads=8)
LAYOUTS = {
    "tp2": {"tp": 2},
    "pp2": {"pp": 2},
    "dp4": {"dp": 4},
    "tp8": {"tp": 8, "samples": 8},  # a step of few messages
    "pp8": {"pp": 8},
    "dp8": {"dp": 8},
    "tp2-pp2-dp2": {"tp": 2, "pp": 2, "dp": 2},
    "pp4-gpipe": {"pp": 4, "schedule": "gpipe"},
    "pp4-tp2-interleaved": {"pp": 4, "tp": 2, "vpp": 2},
    "pp2-gpipe-looped": {"pp": 2, "vpp": 4, "schedule": "gpipe"},
    "pp2-zero-bubble": {"pp": 2, "schedule": "zero-bubble"},
    "pp2-tp2-zero-bubble-interleaved": {"pp": 2, "tp": 2, "vpp": 2, "schedule": "zero-bubble"},
    "pp2-tp2-zbv": {"pp": 2, "tp": 2, "vpp": 2, "schedule": "zbv"},
    "pp2-dp2-dualpipev": {"pp": 2, "dp": 2, "vpp": 2, "schedule": "dualpipev"},
    "pp3-uneven": {"pp": 3, "stages": "4,3,1"},
    "pp4-empty-last": {"pp": 4, "stages": "3,3,2,0"},
}


@pytest.fixture(scope="module")
def single():
    return run_ranks(trained, 1, toy_config(model=DEEP), STEPS)[0]


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout_equals_single_process(single, name):
    losses, parameters = single
    layout = dict(LAYOUTS[name])
    samples = layout.pop("samples", 1)
    sizes = {axis: layout.pop(axis, 1) for axis in ("tp", "pp", "dp")}
    config = toy_config(**sizes, parallel=layout, model=DEEP, micro_batch_size=samples)
    found = run_ranks(trained, math.prod(sizes.values()), config, STEPS)
    for rank_losses, rank_parameters in found:
        assert rank_losses == pytest.approx(losses, abs=1e-5)
        assert rank_parameters.keys() == parameters.keys()
        for name, whole in parameters.items():
            error = (rank_parameters[name] - whole).norm() / whole.norm()
            assert error < 1e-4, f"{name}: {error}"


def test_the_toy_run_learns(single):
    losses, _ = single
    assert losses[-1] < losses[0] - 0.3
    assert torch.isfinite(torch.tensor(losses)).all()
