"""The loss scale against torch.amp.GradScaler, and its hysteresis against Megatron-LM's rule."""

from __future__ import annotations

import random

import pytest
import torch

from mcc.core.errors import MccError
from mcc.train.optim.config import OptimConfig
from mcc.train.optim.scaler import LossScale


def _scale(**settings) -> LossScale:
    return LossScale.start(OptimConfig(**settings))


def test_without_hysteresis_it_is_torchs_grad_scaler():
    ours = _scale(initial_loss_scale=2.0**16, loss_scale_window=4, hysteresis=1, min_loss_scale=2.0**-20)
    theirs = torch.amp.GradScaler("cpu", init_scale=2.0**16, growth_interval=4)
    parameter = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    draw = random.Random(0)
    for _ in range(200):
        overflow = draw.random() < 0.2
        theirs.scale(torch.zeros(1))
        parameter.grad = torch.full((1,), float("inf") if overflow else 1.0)
        theirs.step(optimizer)
        theirs.update()
        ours.update(overflow)
        assert ours.scale == theirs.get_scale()


def test_hysteresis_forgives_the_first_overflow_until_the_scale_grows():
    scale = _scale(initial_loss_scale=8.0, loss_scale_window=3, hysteresis=2)
    seen = []
    for overflow in (True, True, True, False, False, True, False, False, False, True, True):
        scale.update(overflow)
        seen.append(scale.scale)
    #        patience 1, 0: half, half;   2 good, then bad again: half;  3 good: double;   patience 1, 0: half
    assert seen == [8.0, 4.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 2.0, 2.0, 1.0]


def test_overflow_at_the_smallest_scale_ends_the_run():
    scale = _scale(initial_loss_scale=4.0, min_loss_scale=3.0, hysteresis=1)
    scale.update(True)
    assert scale.scale == 3.0
    with pytest.raises(MccError, match="not finite even at the smallest loss scale, 3"):
        scale.update(True)


def test_a_fixed_scale_stays():
    scale = _scale(loss_scale=128.0)
    for overflow in (True, True, True, False):
        scale.update(overflow)
    scale.restore({"scale": 2.0, "good": 0, "patience": 1})
    assert scale.scale == 128.0


def test_the_state_continues_exactly():
    draw = random.Random(1)
    history = [draw.random() < 0.1 for _ in range(60)]
    straight = _scale(loss_scale_window=5)
    broken = _scale(loss_scale_window=5)
    for step, overflow in enumerate(history):
        if step == 30:
            state = broken.state()
            broken = _scale(loss_scale_window=5)
            broken.restore(state)
        straight.update(overflow)
        broken.update(overflow)
    assert straight == broken
