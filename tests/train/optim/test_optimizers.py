"""AdamW and SGD against their formulas; rows updated apart against the whole."""

from __future__ import annotations

import pytest
import torch

from mcc.train.optim import optimizers
from mcc.train.optim.config import OptimConfig


def _tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"matrix": (7, 5), "bias": (7,), "norm": (5,)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def _trained(config: OptimConfig, steps: int = 5) -> dict[str, torch.Tensor]:
    parameters = {name: torch.nn.Parameter(x) for name, x in _tensors().items()}
    optimizer = optimizers.build(parameters, config)
    for step in range(steps):
        for name, grad in _tensors(step + 1).items():
            parameters[name].grad = grad
        optimizer.step()
    return {name: p.detach() for name, p in parameters.items()}


def test_adamw_decays_matrices_alone():
    config = OptimConfig(lr=0.1, weight_decay=0.3, adam_beta2=0.99)
    found = _trained(config)
    for name, x in _tensors().items():
        m, v = torch.zeros_like(x), torch.zeros_like(x)
        for step in range(1, 6):
            grad = _tensors(step)[name]
            m = 0.9 * m + 0.1 * grad
            v = 0.99 * v + 0.01 * grad**2
            decay = 0.3 if name == "matrix" else 0.0
            x = x - 0.1 * decay * x
            x = x - 0.1 * (m / (1 - 0.9**step)) / ((v / (1 - 0.99**step)).sqrt() + 1e-8)
        torch.testing.assert_close(found[name], x)


def test_sgd_with_momentum():
    found = _trained(OptimConfig(optimizer="sgd", lr=0.1, weight_decay=0.3, sgd_momentum=0.8))
    for name, x in _tensors().items():
        m = torch.zeros_like(x)
        for step in range(1, 6):
            decay = 0.3 if name == "matrix" else 0.0
            m = 0.8 * m + _tensors(step)[name] + decay * x
            x = x - 0.1 * m
        torch.testing.assert_close(found[name], x)


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_moments_carry_over_exactly(name):
    """Steps 1-5 in one optimizer equal 1-2 in one and 3-5 in another that took over its moments and count."""
    config = OptimConfig(optimizer=name, lr=0.1)
    whole = _trained(config)
    parameters = {name: torch.nn.Parameter(x) for name, x in _tensors().items()}
    state: dict[str, dict[str, torch.Tensor]] = {}
    for first, last in ((1, 2), (3, 5)):
        optimizer = optimizers.build(parameters, config)
        own = optimizers.moments(optimizer, parameters, config)
        assert set(own) == set(optimizers.slots(config))
        for slot, tensors in state.items():
            for key, value in tensors.items():
                own[slot][key].copy_(value)
        optimizers.set_updates(optimizer, parameters, config, first - 1)
        for step in range(first, last + 1):
            for key, grad in _tensors(step).items():
                parameters[key].grad = grad
            optimizer.step()
        state = optimizers.moments(optimizer, parameters, config)
    for key, value in parameters.items():
        assert torch.equal(value, whole[key])


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_rows_updated_apart_equal_the_whole_bit_for_bit(name):
    config = OptimConfig(optimizer=name, lr=0.1)
    whole = _trained(config)["matrix"]
    matrix = _tensors()["matrix"]
    pieces = {f"{start}": torch.nn.Parameter(matrix[start : start + 3]) for start in (0, 3, 6)}
    optimizer = optimizers.build(pieces, config)
    for step in range(1, 6):
        grad = _tensors(step)["matrix"]
        for start, piece in pieces.items():
            piece.grad = grad[int(start) : int(start) + 3]
        optimizer.step()
    assert torch.equal(matrix, whole)


def test_a_rank_may_own_nothing():
    for name in ("adam", "sgd"):
        optimizers.build({}, OptimConfig(optimizer=name)).step()


def test_sgd_without_momentum_remembers_nothing():
    assert optimizers.slots(OptimConfig(optimizer="sgd", sgd_momentum=0.0)) == ()


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_moments_may_be_read_before_the_first_step(name):
    """A run saves them even if overflows have left out every step so far."""
    config = OptimConfig(optimizer=name, lr=0.1)
    read, never = ({key: torch.nn.Parameter(x) for key, x in _tensors().items()} for _ in range(2))
    for parameters in (read, never):
        optimizer = optimizers.build(parameters, config)
        if parameters is read:
            optimizers.moments(optimizer, parameters, config)
        for key, grad in _tensors(1).items():
            parameters[key].grad = grad
        optimizer.step()
    assert all(torch.equal(read[key], never[key]) for key in read)
