"""Where and when sites compress: `when=`, `layers=`, `stages=`, and feedback past what is not compressed."""

from __future__ import annotations

import types

import pytest
import torch
import torch.distributed.pipelining as pipelining
from hypothesis import given
from hypothesis import strategies as st

from mcc.core.errors import UsageError
from mcc.models.base.config import ModelConfig
from mcc.models.base.family import families
from mcc.train.compress.codec import Context, TensorSpec, nbytes
from mcc.train.compress.feedback import Feedback
from mcc.train.compress.spec import parse, parse_all
from mcc.train.compress.where import Ranges
from mcc.train.parallel.pipeline import epilogue
from mcc.train.parallel.places import boundary_coded, check_scopes, coded_keys, coded_parameters
from mcc.train.parallel.stages import cut
from mcc.train.prepare import check_epochs, without_effect
from tests.ranks import run_ranks
from tests.train.toy import make_engine, toy_config, train


@pytest.mark.parametrize(
    ("text", "count", "expected"),
    [
        ("0-5", 12, range(6)),
        ("12-", 24, range(12, 24)),
        ("-1", 4, range(2)),
        ("3+7-9", 10, [3, 7, 8, 9]),
        ("50%-", 12, range(6, 12)),
        ("50%-", 5, [3, 4]),
        ("-75%", 4, range(3)),
        ("-75%", 8, range(6)),
        ("0-50%+5", 6, [0, 1, 2, 5]),
    ],
)
def test_ranges(text, count, expected):
    assert Ranges(text).among(count) == frozenset(expected)


@given(st.integers(0, 100), st.integers(1, 40))
def test_the_two_sides_of_a_share_are_the_whole_row(share, count):
    sides = []
    for text in (f"-{share}%", f"{share}%-"):
        try:
            sides.append(Ranges(text).among(count))
        except UsageError:  # nothing on that side
            sides.append(frozenset())
    assert sides[0] | sides[1] == set(range(count)) and not sides[0] & sides[1]


@pytest.mark.parametrize("text", ["", "-", "5%", "a", "1,2", "3++4", "1-2-3", "-5-", "½"])
def test_what_is_no_range_is_refused(text):
    with pytest.raises(UsageError, match="is no list of ranges"):
        Ranges(text)


@pytest.mark.parametrize(
    ("text", "count"), [("12", 12), ("0-12", 12), ("12-", 12), ("-101%", 10), ("3-2", 9), ("-0%", 9)]
)
def test_ranges_outside_are_refused(text, count):
    with pytest.raises(UsageError):
        Ranges(text).among(count)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pp.forward=quantize:when=epilogue", "when=epilogue makes no sense at pp.forward"),
        ("dp.grad=quantize:when=epilogue", "when=epilogue makes no sense at dp.grad"),
        ("pp.forward=quantize:when=later", "when=later is not"),
        ("pp.forward=quantize:when=after", "when=after is not"),
        ("pp.forward=quantize:when=after:-1", "is not"),
        ("pp.forward=quantize:when=after:5,warmup=3", "give one"),
        ("pp.forward=quantize:layers=a", "a is no list"),
        ("pp.forward=quantize:feedback=lazily", "is neither on nor off nor lazy"),
    ],
)
def test_contradictions_are_refused(text, message):
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert message in str(caught.value)


def test_when_is_read_and_told():
    spec = parse("pp.backward=powersgd:rank=16,when=epilogue,feedback=lazy,stages=1-")
    assert str(spec).endswith("feedback=lazy,when=epilogue,stages=1-")
    assert parse(str(spec)) == spec
    after = parse("pp.forward=quantize:when=after:3")
    assert [after.active(step, 10) for step in range(5)] == [False] * 3 + [True] * 2
    epoch = parse("pp.forward=quantize:when=epoch:1,warmup=8")
    assert [epoch.active(step, 10, step // 5) for step in (4, 5, 8)] == [False, False, True]


# Stages 0-5, 6-11 of 12 layers; tied embeddings.
FAMILY, MODEL = families.get("gpt2")(), ModelConfig(num_layers=12, vocab_size=100)


def _check(*compress, pp=2, vpp=1, v=False):
    check_scopes(parse_all(compress), cut(MODEL, pp, vpp, v), FAMILY, MODEL)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tp.forward=quantize:layers=12-", "12- is not within 0 to 11"),
        ("tp.forward=quantize:layers=0-5,stages=1", "leaves nothing.*stages have the layers 0 to 5; 6 to 11"),
        ("pp.forward=quantize:layers=0-4", "leaves nothing.*boundaries lie after layers 5, stages 0 send"),
        ("pp.forward=quantize:stages=1", "leaves nothing"),
        ("pp.backward=quantize:stages=0", "leaves nothing.*stages 1 send"),
        ("dp.grad=quantize:stages=2", "2 is not within 0 to 1"),
    ],
)
def test_scopes_that_do_not_fit_the_model_are_refused(text, message):
    with pytest.raises(UsageError, match=message):
        _check(text)


def test_scopes_that_fit_are_taken():
    _check("pp.forward=quantize:layers=5", "pp.backward=quantize:stages=1", "tp.forward=quantize:layers=50%-")
    _check("dp.grad=powersgd:stages=-75%", pp=4)
    with pytest.raises(UsageError, match="leaves nothing"):  # the only boundary of a V within a rank
        _check("pp.forward=quantize:layers=5", vpp=2, v=True)


def test_what_a_scope_covers():
    stages = cut(MODEL, 4)  # of 3 layers each
    forward, backward = parse("pp.forward=none:layers=5-"), parse("pp.backward=none:stages=1-2")
    assert [boundary_coded(forward, stages, before) for before in range(3)] == [False, True, True]
    assert [boundary_coded(backward, stages, before) for before in range(3)] == [True, True, False]
    keys = coded_keys(parse("tp.forward=none:layers=2-8,stages=1-3"), stages)
    assert [i for i in range(12) if keys(f"layers.{i}.mlp.down")] == list(range(3, 9))
    whole = coded_parameters(parse("dp.grad=none:stages=0+3"), stages, FAMILY)
    assert [i for i in range(12) if whole(f"layers.{i}.mlp.down.weight")] == [0, 1, 2, 9, 10, 11]
    assert whole("embedding.tokens.weight") and whole("final_norm.weight")
    some = coded_parameters(parse("dp.grad=none:layers=0-"), stages, FAMILY)
    assert all(some(name) == name.startswith("layers.") for name, _, _ in FAMILY.table(MODEL))


def test_what_never_compresses_is_told_or_refused():
    config = toy_config(1, 2, 1, ("pp.forward=quantize:when=after:20", "tp.forward=quantize", "pp.backward=quantize"))
    assert [what.split(":")[0] for what in without_effect(config)] == [
        "--compress pp.forward has no effect",
        "--compress tp.forward has no effect",
    ]
    alone = toy_config(1, 1, 1, ("dp.grad=quantize", "embedding=quantize"))
    assert [what.split(":")[0] for what in without_effect(alone)] == [
        "--compress dp.grad has no effect",
        "--compress embedding has no effect",
    ]
    assert not without_effect(toy_config(1, 2, 1, ("embedding=quantize",)))
    assert not without_effect(toy_config(1, 1, 1, ("dp.grad=sign:of=momentum,warmup=2",)))
    assert not without_effect(toy_config(1, 1, 2, ("dp.grad=quantize", "embedding=quantize")))
    waits = toy_config(1, 2, 1, ("pp.forward=quantize:when=epoch:1",))
    check_epochs(waits, 100)
    with pytest.raises(UsageError, match="samples are not known"):
        check_epochs(waits, None)


def _order(schedule, p, n):
    """torch's order of a schedule of one stage a rank."""
    stage = types.SimpleNamespace(num_stages=p, stage_index=0, group_size=p, group_rank=0, has_backward=True)
    stage.submod, stage.device, stage.is_last = None, torch.device("cpu"), False
    return schedule(stage, n).pipeline_order


@pytest.mark.parametrize(("p", "n"), [(2, 2), (2, 5), (3, 4), (4, 4), (4, 8), (4, 9), (8, 16)])
def test_the_epilogue_of_1f1b_is_the_last_p_minus_k_sends(p, n):
    order = _order(pipelining.Schedule1F1B, p, n)
    for k in range(p):
        assert epilogue(order[k], k) == set(range(n - (p - k), n)), f"stage {k} of {p}"


def test_gpipe_is_all_epilogue():
    order = _order(pipelining.ScheduleGPipe, 4, 6)
    assert all(epilogue(order[k], k) == set(range(6)) for k in range(4))


SCHEDULES = {
    "1f1b": {"schedule": "1f1b"},
    "gpipe": {"schedule": "gpipe"},
    "interleaved": {"schedule": "1f1b", "vpp": 2},
    "zero-bubble": {"schedule": "zero-bubble", "vpp": 2},
    "zbv": {"schedule": "zbv", "vpp": 2},
    "dualpipev": {"schedule": "dualpipev", "vpp": 2},
}


def _epilogues(pp, parallel):
    """By stage of this rank: its gradients' bytes in a step, its epilogue, its micro-batches; losses of 3 steps."""
    compress = ("pp.backward=powersgd:rank=2,when=epilogue,feedback=lazy",)
    engine = make_engine(toy_config(1, pp, 1, compress, parallel=parallel))
    losses = train(engine, 3)
    found = {}
    for stage in engine.pipeline.wired:
        end = stage.ends.get(("pp.backward", "send"))
        if end is not None:
            found[stage.stage_index] = stage.epilogues[stage.stage_index], nbytes(end.payload()), end.spec.nbytes
    return losses, found, engine.mesh.wire.take().get("pp.backward", 0)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_compresses_its_epilogue_alone(name):
    """What is sent is that, by the byte; and both ends agree, or the sizes would not."""
    pp = 4 if name == "1f1b" else 2
    for losses, found, sent in run_ranks(_epilogues, pp, pp, SCHEDULES[name]):
        assert losses[-1] < 4.7
        expected = sum(len(coded) * small + (8 - len(coded)) * large for coded, small, large in found.values())
        assert sent == 3 * expected
        assert all(coded for coded, _, _ in found.values())
        if name == "1f1b":
            assert all(coded == set(range(8 - (pp - k), 8)) for k, (coded, _, _) in found.items())


def _stream(text, x, dense):
    """What the receiver sees of the tensors x, some of which go as they are, and the error left."""
    codec = parse(text).make(TensorSpec(tuple(x[0].shape), x.dtype), "stream")
    assert isinstance(codec, Feedback)
    seen, errors = [], []
    for tensor, plain in zip(x, dense, strict=True):
        if plain:
            seen.append(codec.pass_by(tensor))
        else:
            seen.append(codec.decode(codec.encode(tensor, Context()), Context()))
        errors.append(codec.error)
    return seen, errors


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mode", ["on", "lazy"])
def test_feedback_telescopes_past_dense_sends(mode, dtype):
    x = torch.randn(24, 6, 8, generator=torch.Generator().manual_seed(3)).to(dtype)
    dense = [i % 4 < 2 for i in range(24)]
    seen, errors = _stream(f"pp.backward=powersgd:rank=2,when=epilogue,feedback={mode}", x, dense)
    for upto in (1, 7, 10, 24):
        total, wanted = (sum(t.double() for t in ts[:upto]) for ts in (seen, x))
        torch.testing.assert_close(total, wanted - errors[upto - 1].double(), atol=1e-4, rtol=0)
    for i in (4, 8):  # the first dense send after compressed ones
        before = errors[i - 1]
        assert before.any()
        if mode == "lazy":
            assert torch.equal(seen[i], x[i]) and torch.equal(errors[i], before)
        else:
            assert torch.equal(seen[i], (x[i].float() + before).to(dtype))
            assert (errors[i].abs() <= x[i].float().abs().max() * 2**-7).all()  # no more than the dtype's rounding
            assert dtype != torch.float32 or not errors[i].any()


def test_modes_are_one_where_all_is_compressed():
    x = torch.randn(9, 6, 8, generator=torch.Generator().manual_seed(4))
    (a, _), (b, _) = (
        _stream(f"pp.backward=powersgd:rank=2,feedback={mode}", x, [False] * 9) for mode in ("on", "lazy")
    )
    assert all(torch.equal(one, other) for one, other in zip(a, b, strict=True))


def test_lazy_feedback_is_optimus_ccs():
    """Its algorithm written out: one error a sender, for the next gradient that is compressed, over steps' ends."""
    n, m, r = 12, 8, 3
    codec = parse(f"pp.backward=powersgd:rank={r},when=epilogue,feedback=lazy").make(
        TensorSpec((n, m), torch.float32), "stream"
    )
    q, error = torch.linalg.qr(codec.inner.q_rm.mT.double()).Q, torch.zeros(n, m, dtype=torch.float64)
    gradients = torch.randn(3, 4, n, m, generator=torch.Generator().manual_seed(5))
    for step in gradients:
        assert torch.equal(codec.pass_by(step[0]), step[0]) and torch.equal(codec.pass_by(step[1]), step[1])
        for gradient in step[2:]:  # stage 2 of 4: its last two
            seen = codec.decode(codec.encode(gradient, Context()), Context())
            wanted = gradient.double() + error
            p = torch.linalg.qr(wanted @ torch.linalg.qr(q).Q).Q
            q = wanted.T @ p
            error = wanted - p @ q.T
            torch.testing.assert_close(seen.double(), p @ q.T, atol=1e-4, rtol=0)
            torch.testing.assert_close(codec.error.double(), error, atol=1e-4, rtol=0)


@pytest.mark.parametrize("alike", [True, False])
def test_an_error_that_travels_helps_where_activations_are_alike(alike):
    """A weight's gradient over two micro-batches, sum_i a_i^T y_i, against sum_i a_i^T g_i.

    With equal activations it misses the last error alone. With unlike ones the first error is met by another
    activation than its own: it is missed, and noise of its size comes on top.
    """
    tokens, wide = 48, 32
    make = torch.Generator().manual_seed(7)
    a, other, g, h = torch.randn(4, tokens, wide, generator=make)
    activations, gradients = torch.stack([a, a if alike else other]), torch.stack([g, h])
    exact = (activations.mT @ gradients).sum(0)
    missed = {}
    for mode in ("off", "lazy"):
        codec = parse(f"pp.backward=powersgd:rank=4,feedback={mode}").make(
            TensorSpec((tokens, wide), torch.float32), "stream"
        )
        seen = torch.stack([codec.decode(codec.encode(x, Context()), Context()) for x in gradients])
        missed[mode] = float(((activations.mT @ seen).sum(0) - exact).norm())
        if mode == "lazy":
            last = activations[1].mT @ codec.error
            left = 0 if alike else (activations[0] - activations[1]).mT @ (gradients[0] - seen[0])
            torch.testing.assert_close((activations.mT @ (gradients - seen)).sum(0), last + left, atol=1e-3, rtol=0)
    assert (missed["lazy"] < missed["off"]) == alike


def _scoped(compress, layout, parallel):
    engine = make_engine(toy_config(*layout, compress, parallel=parallel))
    losses = train(engine, 4)
    parameters = {name: p.detach().clone() for name, p in engine.parameters.items()}
    return losses, parameters, sorted(engine.codecs()), engine.mesh.wire.take()


def test_scoped_codecs_stand_where_they_are_told():
    compress = (
        "tp.forward=quantize:bits=8,layers=2-",
        "tp.backward=quantize:bits=8,stages=0",
        "dp.grad=powersgd:rank=2,stages=1,feedback=on",
    )
    results = run_ranks(_scoped, 8, compress, (2, 2, 2), {})
    for rank, (_, parameters, codecs, _) in enumerate(results):
        stage = rank // 4
        layers = {int(key.split("/")[1].split(".")[1]) for key in codecs if key.startswith(("tp.", "dp.grad/layers"))}
        assert layers == set(range(2 * stage, 2 * stage + 2))
        sites = {key.split("/")[0] for key in codecs}
        assert sites == ({"tp.forward", "dp.grad"} if stage else {"tp.backward"})
        twin = results[rank ^ 2][1]  # the other replica
        assert all(torch.equal(parameters[name], twin[name]) for name in parameters)


@pytest.mark.parametrize("parallel", [{}, {"zero": 1}])
def test_a_bucket_of_some_layers_leaves_the_others_dense(parallel):
    """Identity of a few layers' bucket is dense training bit for bit; quantised it sends that much less."""
    dense = run_ranks(_scoped, 2, (), (1, 1, 2), parallel)
    same = run_ranks(_scoped, 2, ("dp.grad=none:layers=1-2",), (1, 1, 2), parallel)
    small = run_ranks(_scoped, 2, ("dp.grad=quantize:bits=4,layers=1-2",), (1, 1, 2), parallel)
    for (losses, parameters, _, _), (again, others, _, _) in zip(dense, same, strict=True):
        assert losses == again
        assert all(torch.equal(parameters[name], others[name]) for name in parameters)
    for (_, _, _, sent), (_, a, codecs, less) in zip(same, small, strict=True):
        assert codecs == ["dp.grad/bucket/whole"]
        elements = 2 * (12 * 32 * 32 + 13 * 32)
        saved = sent["dp.grad"] - less["dp.grad"]
        assert saved == pytest.approx(4 * elements * (4 - 0.5), rel=0.03)
        assert all(torch.equal(a[name], small[0][1][name]) for name in a)
