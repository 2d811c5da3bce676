"""One contract for every codec, and each one's own mathematics."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mcc.core.errors import UsageError
from mcc.train.compress.bits import pack_bits, packed_bytes, unpack_bits
from mcc.train.compress.codec import Context, TensorSpec, codecs, pack, unpack
from mcc.train.compress.spec import parse, parse_all

# Every codec, with option sets that change its path; a codec without an entry is tested with its defaults.
VARIANTS = {
    "quantize": ["bits=1", "bits=3,scale=channel", "bits=4,scale=block,block=7", "bits=8,scale=tensor", "bits=6"],
    "powersgd": ["rank=2", "rank=3,bits=16", "rank=3,bits=8", "rank=2,warm_start=false", "rank=99"],
}
TEXTS = [
    f"pp.forward={name}:{options}{feedback}"
    for name in codecs.names()
    for options in VARIANTS.get(name, [""])
    for feedback in ("", ",feedback=on" if options else "feedback=on")
]
SHAPES = [(2, 5, 6), (3, 8), (7,)]


def make(text: str, shape: tuple[int, ...]):
    return parse(text).make(TensorSpec(shape, torch.float32), "stream")


@pytest.mark.parametrize(("text", "shape"), itertools.product(TEXTS, SHAPES))
def test_contract(text, shape):
    sender, receiver = make(text, shape), make(text, shape)
    generator = torch.Generator().manual_seed(1)
    for step in range(4):
        x = torch.randn(shape, generator=generator) * 10.0 ** (step - 2) if step else torch.zeros(shape)
        kept = x.clone()
        payload = sender.encode(x, Context(step=step))
        assert torch.equal(x, kept), "encode changed its input"
        specs = sender.payload()
        assert [(tuple(p.shape), p.dtype) for p in payload] == [(s.shape, s.dtype) for s in specs]
        message = pack(payload)
        assert message.numel() == sender.payload_bytes == receiver.payload_bytes
        seen = receiver.decode(unpack(message, receiver.payload()), Context(step=step))
        assert seen.shape == x.shape and seen.dtype == x.dtype
        assert torch.isfinite(seen).all()
        if step == 0:
            assert not seen.any(), "zeros must decode to zeros"


@pytest.mark.parametrize("text", TEXTS)
def test_state_survives_a_restart(text):
    shape = (4, 6)
    first, generator = make(text, shape), torch.Generator().manual_seed(2)
    tensors = torch.randn(6, *shape, generator=generator)
    for x in tensors[:3]:
        first.encode(x, Context())
    second = make(text, shape)
    second.load_state_dict({name: value.clone() for name, value in first.state_dict().items()})
    for x in tensors[3:]:
        for a, b in zip(first.encode(x, Context()), second.encode(x, Context()), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("text", [text for text in TEXTS if text.endswith("feedback=on")])
def test_feedback_telescopes(text):
    """sum of what is seen = sum of what was sent - the last error, for every codec."""
    codec, generator = make(text, (4, 6)), torch.Generator().manual_seed(3)
    tensors = torch.randn(20, 4, 6, generator=generator)
    seen = sum(codec.decode(codec.encode(x, Context()), Context()) for x in tensors)
    torch.testing.assert_close(seen, tensors.sum(0) - codec.error, atol=1e-3, rtol=0)


@pytest.mark.parametrize("scale", ["token", "channel", "tensor", "block"])
@pytest.mark.parametrize("bits", range(1, 9))
def test_quantiser_error_is_within_half_a_level(bits, scale):
    """A level is 2s/2**bits wide and a value decodes to its middle; s is max|x|, rounded up by less than 1%."""
    x = torch.randn(6, 40, generator=torch.Generator().manual_seed(bits)) * 3
    codec = make(f"pp.forward=quantize:bits={bits},scale={scale},block=16", (6, 40))
    error = (codec.decode(codec.encode(x, Context()), Context()) - x).abs()
    tops = {
        "token": x.abs().amax(1, keepdim=True).expand_as(x),
        "channel": x.abs().amax(0, keepdim=True).expand_as(x),
        "tensor": x.abs().amax().expand_as(x),
        "block": x.abs().view(-1, 16).amax(1, keepdim=True).expand(-1, 16).reshape(6, 40),
    }
    assert (error <= tops[scale] * 1.01 / 2**bits).all()


@given(st.integers(1, 8), st.lists(st.integers(0, 255), min_size=1, max_size=70))
def test_packing_is_exact_and_tight(bits, values):
    q = torch.tensor([v % 2**bits for v in values], dtype=torch.uint8)
    packed = pack_bits(q, bits)
    assert packed.numel() == packed_bytes(len(values), bits)
    assert packed.numel() <= (len(values) * bits + 7) // 8 + bits  # at most one group of eight is filled up
    assert torch.equal(unpack_bits(packed, bits, len(values)), q)


def test_low_rank_is_exact_on_a_matrix_of_that_rank():
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(20, 3, generator=generator) @ torch.randn(3, 12, generator=generator)
    codec = make("dp.grad=powersgd:rank=3", (20, 12))
    seen = codec.decode(codec.encode(x, Context()), Context())
    torch.testing.assert_close(seen, x, atol=1e-4, rtol=1e-4)


def test_warm_start_converges_to_the_best_low_rank_approximation():
    """Subspace iteration on a fixed matrix ends at the truncated SVD (Eckart-Young: nothing of that rank is nearer)."""
    x = torch.randn(30, 20, generator=torch.Generator().manual_seed(5))
    codec = make("dp.grad=powersgd:rank=4", (30, 20))
    for _ in range(60):
        error = (codec.decode(codec.encode(x, Context()), Context()) - x).norm()
    best = torch.linalg.svdvals(x)[4:].norm()
    assert best * (1 - 1e-5) <= error <= best * 1.001


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pp.forward", "not SITE=CODEC"),
        ("pp.forwrd=none", "did you mean 'pp.forward'"),
        ("pp.forward=quantise", "did you mean 'quantize'"),
        ("pp.forward=quantize:bit=4", "did you mean 'bits'"),
        ("pp.forward=quantize:bits=9", "not in 1..8"),
        ("pp.forward=quantize:bits=four", "bits"),
        ("pp.forward=quantize:bits", "not key=value"),
        ("pp.forward=quantize:bits=4,bits=5", "given twice"),
        ("dp.grad=powersgd:rank=0", "at least 1"),
        ("dp.grad=powersgd:rank=2,feedback=maybe", "neither on nor off"),
        ("dp.grad=powersgd:rank=2,warmup=1.5", "no number of steps"),
    ],
)
def test_bad_specifications_are_refused(text, words):
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert words in caught.value.what
    assert "\n" not in caught.value.what


def test_a_site_named_twice_is_refused():
    with pytest.raises(UsageError, match="twice"):
        parse_all(["pp.forward=none", "pp.forward=quantize"])


@pytest.mark.parametrize("text", ["none", "quantize:bits=4", "powersgd:rank=2"])
def test_feedback_loses_nothing_in_bfloat16(text):
    """sum y = sum x - e: the error is float32, so that what a bfloat16 message lacks comes with a later one."""
    spec = TensorSpec((6, 8), torch.bfloat16)
    codec = parse(f"pp.forward={text}{',' if ':' in text else ':'}feedback=on").make(spec, "stream")
    generator = torch.Generator().manual_seed(1)
    sent = received = torch.zeros(6, 8)
    for step in range(50):
        x = torch.randn(6, 8, generator=generator).bfloat16()
        payload = codec.encode(x, Context(step=step))
        assert sum(part.nbytes for part in payload) == codec.payload_bytes
        y = codec.decode(payload, Context(step=step))
        assert y.dtype == torch.bfloat16
        sent, received = sent + x.float(), received + y.float()
    torch.testing.assert_close(received + codec.state_dict()["error"], sent, atol=1e-4, rtol=0)
