"""`quantize`: clipping, stochastic rounding and AC-SGD's grid, each against its formula."""

from __future__ import annotations

import itertools

import pytest
import torch

from mcc.core.errors import UsageError
from mcc.train.compress.bits import unpack_bits
from mcc.train.compress.codec import Context
from mcc.train.compress.spec import parse
from tests.train.compress.streams import make, normal, through


@pytest.mark.parametrize(("bits", "range"), itertools.product(range(1, 9), ["max", "rms"]))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_acsgd_grid_is_the_formula(bits, range, dtype):
    """One scale a hidden channel in float16; q = clip(round(2**(b-1) x / (s + 1e-6))) + 2**(b-1) in uint8."""
    x = (normal(2, 7, 6, seed=bits) * torch.tensor([1e-7, 1e-5, 0.01, 1.0, 50.0, 8000.0])).to(dtype)
    codec = make(f"quantize:bits={bits},scale=channel,grid=acsgd,range={range}", (2, 7, 6), dtype)
    scale, packed = codec.encode(x, Context())
    seen = codec.decode((scale, packed), Context())

    half, wide = 2 ** (bits - 1), x.float()
    s = wide.abs().amax((0, 1)) if range == "max" else 2 * wide.square().mean((0, 1)).sqrt()
    s = s.half()
    q = (torch.round(half * wide / (s.float() + 1e-6)).clamp(-half, half - 1) + half).to(torch.uint8)
    assert scale.dtype == torch.float16 and torch.equal(scale, s)
    assert torch.equal(unpack_bits(packed, bits, x.numel()), q.view(-1))
    assert torch.equal(seen, ((q.float() - half) / half * s.float()).to(dtype))


@pytest.mark.parametrize("bits", range(1, 9))
def test_acsgd_error_is_half_a_step_but_at_the_top(bits):
    """Half a step of s/2**(b-1), a whole one at +s; a millionth and float16's rounding on top."""
    x = normal(200, 5, seed=1)
    error = (through(f"quantize:bits={bits},scale=channel,grid=acsgd", x) - x).abs()
    s, step = x.abs().amax(0), x.abs().amax(0) / 2 ** (bits - 1)
    bound = torch.where(x > s - step, step, step / 2) + s * 2**-10
    assert (error <= bound).all()


@pytest.mark.parametrize(
    ("bits", "scale"), itertools.product([1, 2, 4, 8], ["token", "channel", "tensor", "block,block=40"])
)
def test_rms_clips_and_is_finer_within(bits, scale):
    x = normal(16, 48, seed=2) ** 3
    codec = make(f"quantize:bits={bits},scale={scale},range=rms", (16, 48))
    scales, packed = codec.encode(x, Context())
    y = codec.decode((scales, packed), Context())
    groups = codec.groups
    matrix = groups.split(x)
    rms = 2 * groups.mean(matrix.square()).sqrt()
    torch.testing.assert_close(groups.column(scales.float()), rms, rtol=2**-8, atol=0)
    s = groups.join((rms * (1 + 2**-7)).expand_as(matrix))
    assert ((y - x).abs() <= s / 2**bits + (x.abs() - s * (1 - 2**-6)).clamp(min=0)).all()
    assert (x.abs() > s).any(), "something is cut off"


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("grid", ["midrise", "acsgd"])
def test_stochastic_rounding_is_right_in_the_mean(bits, grid):
    """Midrise has levels up to +-max, AC-SGD's lacks the topmost. Five deviations of a mean of 500 draws."""
    x = normal(1, 50, seed=3)
    codec = make(f"quantize:bits={bits},rounding=stochastic,grid={grid}", (1, 50))
    step = float(x.abs().max()) * (2 / (2**bits - 1) if grid == "midrise" else 2.0 ** (1 - bits)) * 1.01
    seen = []
    for index in range(500):
        context = Context(step=index // 7, microbatch=index % 7)
        seen.append(codec.decode(codec.encode(x, context), context))
    held = x.abs() <= float(x.abs().max()) - (step if grid == "acsgd" else -1)
    errors = (torch.stack(seen) - x)[:, held]
    assert (errors.abs() <= step).all() and len(torch.stack(seen).unique()) <= 2**bits
    assert (errors.mean(0).abs() <= 5 * step / 2 / 500**0.5 + 2e-3 * step).all()


def test_draws_come_again_and_differ_by_time_and_stream():
    x, text = normal(4, 64), "quantize:bits=4,rounding=stochastic"
    first = make(text, (4, 64)).encode(x, Context(step=3, microbatch=1))[1]
    assert torch.equal(first, make(text, (4, 64)).encode(x, Context(step=3, microbatch=1))[1])
    for context, key in ((Context(step=3), "stream"), (Context(step=4, microbatch=1), "stream")):
        assert not torch.equal(first, make(text, (4, 64), key=key).encode(x, context)[1])
    assert not torch.equal(first, make(text, (4, 64), key="other").encode(x, Context(step=3, microbatch=1))[1])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("quantize:bits=1,rounding=stochastic,feedback=on", "would grow"),
        ("quantize:range=min", "range"),
        ("quantize:grid=ac-sgd", "grid"),
        ("quantize:rounding=up", "rounding"),
        ("quantize:block=0", "at least 1"),
    ],
)
def test_bad_options_are_refused(text, words):
    with pytest.raises(UsageError, match=words):
        parse(f"pp.forward={text}")
