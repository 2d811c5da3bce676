"""Every learning-rate schedule against its formula, and against torch's and transformers' where they have it."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import optimization

from mcc.core.errors import UsageError
from mcc.data.training.batch_size import BatchSizes
from mcc.train.optim.config import OptimConfig
from mcc.train.optim.schedule import LearningRate

ITERS = 50


def _rates(sizes: BatchSizes | None = None, steps: int = ITERS, **settings):
    rate = LearningRate(OptimConfig(**{"lr": 1.0, **settings}), sizes or BatchSizes(4), ITERS)
    return [rate(step) for step in range(steps)]


def _theirs(make, *args, steps: int = ITERS, **kwargs):
    """The rates of a scheduler of torch or transformers, around an optimizer of rate 1."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = make(optimizer, *args, **kwargs)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(
    ("settings", "make", "args"),
    [
        ({"lr_decay_style": "cosine"}, optimization.get_cosine_schedule_with_warmup, (10, ITERS)),
        ({"lr_decay_style": "linear"}, optimization.get_linear_schedule_with_warmup, (10, ITERS)),
        ({"lr_decay_style": "constant"}, optimization.get_constant_schedule_with_warmup, (10,)),
        ({"lr_decay_style": "inverse-square-root"}, optimization.get_inverse_sqrt_schedule, (10,)),
    ],
    ids=lambda value: value.get("lr_decay_style") if isinstance(value, dict) else None,
)
def test_transformers_schedules(settings, make, args):
    """Theirs gives the first step of the warm-up the rate 0; ours begins where theirs has its second."""
    ours, theirs = _rates(lr_warmup_iters=10, **settings), _theirs(make, *args)
    assert ours[:10] == pytest.approx(theirs[1:11])
    assert ours[10:] == pytest.approx(theirs[10:])


@pytest.mark.parametrize(("style", "theirs"), [("linear", "linear"), ("cosine", "cosine"), ("minus_sqrt", "1-sqrt")])
def test_transformers_wsd(style, theirs):
    ours = _rates(lr_decay_style="WSD", lr_wsd_decay_style=style, lr_wsd_decay_iters=20, lr_warmup_iters=10, min_lr=0.1)
    there = _theirs(
        optimization.get_wsd_schedule,
        num_warmup_steps=10,
        num_stable_steps=20,
        num_decay_steps=20,
        decay_type=theirs,
        min_lr_ratio=0.1,
    )
    assert ours[10:] == pytest.approx(there[10:])
    assert ours[10:31] == [1.0] * 21


def test_torch_cosine_annealing():
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR
    assert _rates(min_lr=0.2) == pytest.approx(_theirs(cosine, T_max=ITERS, eta_min=0.2))


def test_exponential_wsd_is_halfway_where_the_formula_says():
    rates = _rates(lr_decay_style="WSD", lr_wsd_decay_iters=20, min_lr=0.1)
    assert rates[:31] == [1.0] * 31
    assert rates[40] == pytest.approx(0.1 + 0.9 * (2 * 0.5**0.5 - 1))


def test_after_the_decay_the_rate_is_the_smallest():
    for style in ("linear", "cosine", "inverse-square-root"):
        rates = _rates(lr_decay_style=style, lr_decay_iters=20, lr_warmup_iters=5, min_lr=0.05, steps=40)
        assert rates[21:] == [0.05] * 19, style
    assert _rates(lr_decay_style="inverse-square-root", lr_warmup_iters=4)[16] == pytest.approx(0.5)


def test_warmup_by_samples_and_by_fraction_equal_warmup_by_steps():
    by_steps = _rates(lr_warmup_iters=10)
    assert _rates(lr_warmup_samples=40) == pytest.approx(by_steps)  # 4 samples a step
    assert _rates(lr_warmup_fraction=0.2) == pytest.approx(by_steps)
    assert _rates(lr_warmup_iters=10, lr_warmup_init=0.5)[4] == pytest.approx(0.75)


def test_samples_count_what_the_ramp_up_consumed():
    """Steps of 2, then 4 samples: the rate grows with the samples, not with the steps."""
    sizes = BatchSizes(4, (2, 2, 20))
    rates = _rates(sizes, lr_warmup_samples=40, lr_decay_style="constant")
    assert rates[:10] == pytest.approx([2 * (step + 1) / 40 for step in range(10)])
    assert rates[10:15] == pytest.approx([(20 + 4 * (step + 1)) / 40 for step in range(5)])
    assert rates[15] == 1.0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lr_warmup_iters": 5, "lr_decay_samples": 9}, "counts steps"),
        ({"lr_warmup_iters": 5, "lr_warmup_fraction": 0.1}, "excludes"),
        ({"lr_warmup_iters": 9, "lr_decay_iters": 9}, "is not less than"),
        ({"lr_decay_style": "WSD"}, "needs the length"),
        ({"lr_wsd_decay_iters": 3}, "has no use"),
        ({"lr_decay_style": "WSD", "lr_wsd_decay_iters": 45, "lr_warmup_iters": 6}, "together are more than the 50"),
        ({"min_lr": 2.0}, "0 <= min_lr <= lr"),
        ({"lr_warmup_fraction": 1.5}, "between 0 and 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, words):
    with pytest.raises(UsageError, match=words):
        _rates(**settings)


def test_the_rate_never_leaves_its_bounds():
    for style in ("linear", "cosine", "inverse-square-root", "WSD"):
        extra = {"lr_wsd_decay_iters": 7} if style == "WSD" else {}
        rates = _rates(lr_decay_style=style, lr_warmup_iters=3, min_lr=0.01, steps=80, **extra)
        assert all(0 < rate <= 1 and math.isfinite(rate) for rate in rates)
        assert rates == _rates(lr_decay_style=style, lr_warmup_iters=3, min_lr=0.01, steps=80, **extra)
