"""The global norm of gradients, and clipping by it."""

from __future__ import annotations

import torch

from mcc.train.parallel.gradients import _squares
from tests.ranks import run_ranks
from tests.train.toy import make_engine, toy_batch, toy_config


def test_sums_of_squares_are_as_good_as_a_row_in_float32():
    """A row's norm is rounded to 24 bits, its square so to twice that error, and errors of rows do not add up."""
    generator = torch.Generator().manual_seed(0)
    for shape in ((1000, 2000), (100_000,), (3, 4, 5)):
        grad = torch.randn(shape, generator=generator) * 1e-3
        wanted = grad.double().square().sum()
        assert abs(_squares(grad) / wanted - 1) < 4 * 2**-24
    assert torch.isnan(_squares(torch.full((2, 2), float("nan"))))


def _norm_before_and_after(config):
    """The reported norm, and that of the gradients as the optimizer met them, of the whole model on one rank."""
    engine = make_engine(config)
    result = engine.step(toy_batch(0, 0, 1))
    grads = [p.grad.double() for p in engine.parameters.values()]
    return result.grad_norm, float(torch.cat([g.reshape(-1) for g in grads]).norm())


def test_gradients_are_scaled_to_the_limit():
    before, after = run_ranks(_norm_before_and_after, 1, toy_config())[0]
    assert before > 1.0  # the toy run's --clip-grad
    assert abs(after - 1.0) < 1e-5
