"""One contract for every codec, and each one's own mathematics."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mcc.core.errors import UsageError
from mcc.train.compress.bits import pack_bits, pack_wide, packed_bytes, unpack_bits, unpack_wide, wide_bytes
from mcc.train.compress.codec import Context, TensorSpec, codecs, nbytes, pack, unpack
from mcc.train.compress.spec import parse, parse_all
from tests.train.compress.streams import make, normal

GRIDS = ["grid=midrise", "grid=acsgd"]
OTHERWISE = [
    ",".join(("bits=4,scale=channel", *options))
    for options in itertools.product(["range=max", "range=rms"], ["rounding=nearest", "rounding=stochastic"], GRIDS)
    if options != ("range=max", "rounding=nearest", "grid=midrise")
]
# Every codec, with option sets that change its path; a codec without an entry is tested with its defaults.
VARIANTS = {
    "fp8": ["", "format=e5m2,scale=channel", "scale=block,block=7", "format=e5m2,scale=tensor"],
    "sign": ["", "scale=channel", "scale=block,block=7", "scale=tensor"],
    "quantize": [
        "bits=1",
        "bits=3,scale=channel",
        "bits=4,scale=block,block=7",
        "bits=8,scale=tensor",
        "bits=6",
        *OTHERWISE,
    ],
    "hadamard": ["", "bits=2,block=4", "bits=3,block=8"],
    "powersgd": [
        *("rank=2", "rank=3,bits=16", "rank=3,bits=8", "rank=2,warm_start=false", "rank=99", "rank=2,per=sample"),
    ],
    "randomk": ["k=3", "ratio=0.5,values=32", "rescale=on", "k=1000"],
    "topk": ["", "k=3", "ratio=0.5,values=32", "k=1000"],
}


def _texts(feedback: bool) -> list[str]:
    found = []
    for name, cls in codecs.all():
        for options in VARIANTS.get(name, [""]):
            listed = ",".join(filter(None, [options, "feedback=on" if feedback else ""]))
            if not (feedback and cls.feedback_refusal(parse(f"pp.forward={name}:{options}").options)):
                found.append(f"pp.forward={name}:{listed}")
    return found


WITH_FEEDBACK = _texts(True)
TEXTS = [*_texts(False), *WITH_FEEDBACK]
SHAPES = [(2, 5, 6), (3, 8), (7,), (1,), (4, 1)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize(("text", "shape"), itertools.product(TEXTS, SHAPES))
def test_contract(text, shape):
    """The payload is what was declared, of finite values comes what is finite, of zeros zeros, and no input changes."""
    for dtype in DTYPES:
        sender, receiver = make(text, shape, dtype), make(text, shape, dtype)
        for step in range(4):
            context = Context(step=step, training=step != 2)
            x = (normal(*shape, seed=step) * 10.0 ** (step - 2) * (step > 0)).to(dtype)
            kept = x.clone()
            payload = sender.encode(x, context)
            assert torch.equal(x, kept), "encode changed its input"
            specs = sender.payload(context)
            assert [(tuple(p.shape), p.dtype) for p in payload] == [(s.shape, s.dtype) for s in specs]
            message = pack(payload)
            assert message.numel() == nbytes(specs) == nbytes(receiver.payload(context))
            seen = receiver.decode(unpack(message, receiver.payload(context)), context)
            assert torch.equal(seen, sender.decode(payload, context)), "both ends see the same bits"
            assert seen.shape == x.shape and seen.dtype == x.dtype
            assert torch.isfinite(seen).all()
            if step == 0:
                assert not seen.any(), "zeros must decode to zeros"


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_not_finite_does_not_vanish(text):
    """The check of the loss must still see it."""
    for bad, place, dtype in itertools.product([float("nan"), float("inf"), -float("inf")], [0, 17], DTYPES):
        x = normal(4, 6).to(dtype)
        x.view(-1)[place] = bad
        codec = make(text, (4, 6), dtype)
        assert not torch.isfinite(codec.decode(codec.encode(x, Context()), Context())).all()


@pytest.mark.parametrize("text", TEXTS)
def test_evaluation_changes_no_state_and_uses_none(text):
    codec, evaluation = make(text, (4, 6)), Context(step=9, training=False)
    for step in range(3):
        codec.encode(normal(4, 6, seed=step), Context(step=step))
    before = {name: value.clone() for name, value in codec.state_dict().items()}
    x = normal(4, 6, seed=3)
    payload = codec.encode(x, evaluation)
    codec.decode(payload, evaluation)
    after = codec.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in after)
    assert torch.equal(pack(payload), pack(make(text, (4, 6)).encode(x, evaluation)))


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


@pytest.mark.parametrize("text", WITH_FEEDBACK)
def test_feedback_telescopes(text):
    """sum of what is seen = sum of what was sent - the last error, for every codec."""
    codec, generator = make(text, (4, 6)), torch.Generator().manual_seed(3)
    tensors = torch.randn(20, 4, 6, generator=generator)
    seen = sum(codec.decode(codec.encode(x, Context()), Context()) for x in tensors)
    torch.testing.assert_close(seen, tensors.sum(0) - codec.error, atol=1e-3, rtol=0)


@pytest.mark.parametrize("scale", ["token", "channel", "tensor", "block,block=16"])
@pytest.mark.parametrize("bits", range(1, 9))
def test_quantiser_error_is_within_half_a_level(bits, scale):
    """A level is 2s/2**bits wide and a value decodes to its middle; s is max|x|, rounded up by less than 1%."""
    x = torch.randn(6, 40, generator=torch.Generator().manual_seed(bits)) * 3
    codec = make(f"pp.forward=quantize:bits={bits},scale={scale}", (6, 40))
    error = (codec.decode(codec.encode(x, Context()), Context()) - x).abs()
    tops = {
        "token": x.abs().amax(1, keepdim=True).expand_as(x),
        "channel": x.abs().amax(0, keepdim=True).expand_as(x),
        "tensor": x.abs().amax().expand_as(x),
        "block,block=16": x.abs().view(-1, 16).amax(1, keepdim=True).expand(-1, 16).reshape(6, 40),
    }
    assert (error <= tops[scale] * 1.01 / 2**bits).all()


@given(st.integers(1, 8), st.lists(st.integers(0, 255), min_size=1, max_size=70))
def test_packing_is_exact_and_tight(bits, values):
    q = torch.tensor([v % 2**bits for v in values], dtype=torch.uint8)
    packed = pack_bits(q, bits)
    assert packed.numel() == packed_bytes(len(values), bits)
    assert packed.numel() <= (len(values) * bits + 7) // 8 + bits  # at most one group of eight is filled up
    assert torch.equal(unpack_bits(packed, bits, len(values)), q)


@given(st.integers(0, 40), st.lists(st.integers(0, 2**40 - 1), min_size=1, max_size=30))
def test_wide_packing_is_exact_and_tight(bits, values):
    q = torch.tensor([v % 2**bits for v in values], dtype=torch.int64)
    packed = pack_wide(q, bits)
    assert packed.dtype == torch.uint8 and packed.numel() == wide_bytes(len(values), bits)
    assert packed.numel() <= (len(values) * bits + 7) // 8 + 7
    assert torch.equal(unpack_wide(packed, bits, len(values)), q)


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
        ("pp.forward=quantize:bits=4,block=64", "block = 64 says nothing with scale=token"),
        ("pp.forward=quantize:bits", "not key=value"),
        ("pp.forward=quantize:bits=4,bits=5", "given twice"),
        ("pp.forward=quantize:bits=4, bits=8", "given twice"),
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


@pytest.mark.parametrize(
    "text",
    [
        "pp.forward=quantize:bits=4",
        "pp.forward=topk:ratio=0.1,feedback=on,warmup=5",
        "pp.forward=topk:k=40,when=after:5",
        "pp.backward=powersgd:rank=4,when=epilogue,feedback=lazy",
        "tp.forward=hadamard:bits=2,layers=50%-,warmup=0.1",
        "dp.grad=sign:feedback=on,of=momentum,warmup=5",
    ],
)
def test_what_a_specification_prints_can_be_given_again(text):
    assert parse(str(parse(text))) == parse(text)


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
