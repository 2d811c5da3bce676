"""Every layout gives the single process's losses and parameters."""

from __future__ import annotations

import pytest
import torch

from tests.ranks import run_ranks
from tests.train.toy import toy_config, trained

STEPS = 20


@pytest.fixture(scope="module")
def single():
    return run_ranks(trained, 1, toy_config(), STEPS)[0]


@pytest.mark.parametrize(
    ("tp", "pp", "dp", "schedule"),
    [(2, 1, 1, "1f1b"), (4, 1, 1, "1f1b"), (1, 2, 1, "1f1b"), (1, 4, 1, "gpipe"), (1, 1, 4, "1f1b"), (2, 2, 2, "1f1b")],
)
def test_layout_equals_single_process(single, tp, pp, dp, schedule):
    losses, parameters = single
    found = run_ranks(trained, tp * pp * dp, toy_config(tp, pp, dp, schedule=schedule), STEPS)
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
