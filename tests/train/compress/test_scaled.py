"""Codecs with a scale a group: `sign` and `fp8` lose no more than the mathematics allows; the groups themselves."""

from __future__ import annotations

import itertools

import pytest
import torch

from mcc.core.errors import UsageError
from mcc.train.compress.codec import Context
from mcc.train.compress.groups import Groups
from mcc.train.compress.spec import parse
from tests.train.compress.streams import make, normal, through

SCALES = ["token", "channel", "tensor", "block"]


@pytest.mark.parametrize(("scale", "shape"), itertools.product(SCALES, [(2, 3, 5), (7,), (1,), (4, 1), (8, 8)]))
def test_groups_hold_every_value_once(scale, shape):
    x = normal(*shape)
    groups = Groups(scale, 4, shape)
    matrix = groups.split(x)
    assert torch.equal(groups.join(matrix), x)
    assert matrix.shape[1 - groups.dim] == groups.count
    rows = x.reshape(-1, shape[-1])
    lists = {"token": list(rows), "channel": list(rows.T), "tensor": [x], "block": list(x.reshape(-1).split(4))}[scale]
    wanted = torch.stack([values.mean() for values in lists])
    torch.testing.assert_close(groups.mean(matrix).reshape(-1), wanted)
    assert torch.equal(groups.column(groups.mean(matrix).reshape(-1)), groups.mean(matrix))


@pytest.mark.parametrize("scale", SCALES)
def test_sign_loses_what_no_magnitude_could_keep(scale):
    x = normal(6, 41, seed=3) * normal(6, 1, seed=4).exp()
    y = through(f"sign:scale={scale},block=16", x)
    assert torch.equal(y >= 0, x >= 0)
    groups = Groups(scale, 16, (6, 41))
    matrix = groups.split(x)
    mean, square = groups.mean(matrix.abs()), groups.mean(matrix.square())
    lost = groups.mean(groups.split(x - y).square())
    assert (lost <= (square - mean.square() * (1 - 2**-16)) * (1 + 1e-5)).all()
    assert (lost < square).all(), "less is lost than there is"


def test_sign_takes_a_bit_a_value():
    assert make("sign", (6, 41)).payload_bytes == 6 * 2 + 31
    assert make("sign:scale=tensor", (6, 41)).payload_bytes == 2 + 31
    assert make("sign:scale=block,block=16", (6, 41)).payload_bytes == 16 * 2 + 31


@pytest.mark.parametrize(("format", "scale"), itertools.product(["e4m3", "e5m2"], SCALES))
def test_fp8_is_within_half_a_unit_of_its_last_place(format, scale):
    mantissa, lowest, largest = {"e4m3": (3, -6, 448.0), "e5m2": (2, -14, 57344.0)}[format]
    x = normal(8, 64, seed=5) * (normal(8, 64, seed=6) * 4).exp()
    codec = make(f"fp8:format={format},scale={scale},block=16", (8, 64))
    tops, values = codec.encode(x, Context())
    y = codec.decode((tops, values), Context())
    s = codec.groups.join(codec.groups.column(tops.float()).expand_as(codec.groups.split(x))) / largest
    bound = torch.maximum(x.abs() * 2.0 ** -(mantissa + 1), s * 2.0 ** (lowest - mantissa - 1)) * (1 + 1e-6)
    assert ((y - x).abs() <= bound).all()
    top = codec.groups.split(x).abs().amax(codec.groups.dim)
    assert (tops.float() >= top).all() and (tops.float() <= top * 1.01).all()
    assert codec.payload_bytes == 512 + 2 * codec.groups.count


@pytest.mark.parametrize("format", ["e4m3", "e5m2"])
@pytest.mark.parametrize("size", [1e-37, 1e-20, 1.0, 1e30, 1e38])
def test_no_finite_value_becomes_a_nan(format, size):
    x = torch.tensor([1.0, -1.0, 0.3, 0.0]) * size
    y = through(f"fp8:format={format}", x)
    assert torch.isfinite(y).all() and y[3] == 0
    assert ((y - x).abs() <= x.abs() / 8).all()


@pytest.mark.parametrize("text", ["sign:block=0", "fp8:block=0", "fp8:format=e3m4", "sign:scale=row"])
def test_bad_options_are_refused(text):
    with pytest.raises(UsageError):
        parse(f"pp.forward={text}")
