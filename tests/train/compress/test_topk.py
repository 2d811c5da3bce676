"""`topk`: what it keeps, and in how many bytes."""

from __future__ import annotations

import math

import pytest
import torch

from mcc.core.errors import UsageError
from mcc.train.compress.codec import Context
from mcc.train.compress.spec import parse
from tests.train.compress.streams import make, normal, through


def test_the_largest_values_stay_and_the_rest_is_zero():
    x = normal(10, 30)
    y = through("topk:k=20,values=32", x)
    kept = x.abs() >= x.abs().view(-1).sort(descending=True).values[19]
    assert torch.equal(y, torch.where(kept, x, 0))


@pytest.mark.parametrize("ratio", [0.01, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("values", [16, 32])
def test_error_is_within_what_is_left_out(ratio, values):
    """The n - k smallest squares are at most their share of all; a bfloat16 is off by at most 2**-8 of itself."""
    x = normal(20, 50, seed=1)
    error = (through(f"topk:ratio={ratio},values={values}", x) - x).square().sum()
    rounding = 2.0**-16 if values == 16 else 0.0
    assert error <= (1 - ratio + rounding) * x.square().sum()


@pytest.mark.parametrize(
    ("text", "count", "wanted"),
    [
        ("topk:k=8,values=16", 1000, 8 * 2 + 8 * 10 // 8),  # 10 bits address 1000 places
        ("topk:k=8,values=32", 1024, 8 * 4 + 8 * 10 // 8),
        ("topk:k=8,values=16", 1025, 8 * 2 + 8 * 11 // 8),
        ("topk:k=8,values=16", 2**20, 8 * 2 + 8 * 20 // 8),
        ("topk:ratio=0.2,values=16", 1000, 200 * 2 + math.ceil(1000 / 8)),  # 200 indices would take 250 bytes
        ("topk:k=2000", 1000, 1000 * 2 + math.ceil(1000 / 8)),  # no more than there are
        ("topk:k=1", 1, 2 + 0),
    ],
)
def test_bytes(text, count, wanted):
    codec = make(text, (count,))
    assert codec.payload_bytes == wanted
    x = normal(count)
    assert sum(part.nbytes for part in codec.encode(x, Context())) == wanted


def test_half_precision_values_travel_as_they_are():
    for dtype in (torch.float16, torch.bfloat16):
        x = normal(6, 6).to(dtype)
        assert torch.equal(through("topk:ratio=1", x), x)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("topk:k=-1", "at least 1"),
        ("topk:k=5,ratio=0.5", "two things"),
        ("topk:ratio=0", "no share"),
        ("topk:ratio=1.5", "no share"),
        ("topk:values=8", "not 16 or 32"),
    ],
)
def test_contradictory_options_are_refused(text, words):
    with pytest.raises(UsageError, match=words):
        parse(f"pp.forward={text}")
