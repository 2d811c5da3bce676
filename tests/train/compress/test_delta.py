"""`delta`: AQ-SGD's recursion, step for step; both ends remember the same, under every schedule and layout."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mcc.core.errors import MccError, UsageError
from mcc.train.compress import disk_store
from mcc.train.compress.codec import Codec, Context, TensorSpec, nbytes, pack, unpack
from mcc.train.compress.codecs.delta import Delta
from mcc.train.compress.disk_store import DiskRows
from mcc.train.compress.spec import parse
from tests.ranks import run_ranks
from tests.slow import of_every_change
from tests.train.toy import make_engine, toy_batch, toy_config

SHAPE = (2, 5, 6)  # two samples of 5 tokens


def make(options: str, shape: tuple[int, ...] = SHAPE, dtype: torch.dtype = torch.float32) -> Codec:
    return parse(f"pp.forward=delta:{options}").make(TensorSpec(shape, dtype), "stream")


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def send(sender: Codec, receiver: Codec, x: torch.Tensor, context: Context) -> tuple[torch.Tensor, int]:
    """What the receiver sees, and the bytes that were sent."""
    announced = receiver.payload(context)  # before there is anything to receive
    assert announced == sender.payload(context)
    payload = sender.encode(x, context)
    message = pack(payload)
    assert message.numel() == nbytes(announced)
    seen = receiver.decode(unpack(message, receiver.payload(context)), context)
    assert seen.shape == x.shape and seen.dtype == x.dtype
    assert torch.equal(seen, sender.decode(payload, context))
    assert torch.equal(seen, receiver.decode(unpack(message, receiver.payload(context)), context)), "decoded twice"
    return seen, message.numel()


def alike(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("scale", ["token", "channel", "tensor", "block"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_recursion_is_the_papers(bits, scale):
    """y = m + D(Q(x - m)), m <- y, and the first visit as it is; with another codec's object as Q."""
    sender, receiver = (make(f"bits={bits},scale={scale},store_bits=32") for _ in range(2))
    quantize = parse(f"pp.forward=quantize:bits={bits},scale={scale}").make(TensorSpec(SHAPE, torch.float32), "q")
    m = {}
    for step in range(6):
        samples = (2 * (step % 2), 2 * (step % 2) + 1)
        context, x = Context(step=step, samples=samples), normal(*SHAPE, seed=step)
        seen, size = send(sender, receiver, x, context)
        if step < 2:
            assert torch.equal(seen, x) and size == x.nbytes
        else:
            change = x - torch.stack([m[sample] for sample in samples])
            wanted = x - change + quantize.decode(quantize.encode(change, context), context)
            torch.testing.assert_close(seen, wanted, atol=1e-6, rtol=0)
            assert size == quantize.payload_bytes
        m.update(zip(samples, seen, strict=True))
    assert alike(sender.state_dict(), receiver.state_dict())


@pytest.mark.parametrize("store_bits", [32, 16, 8, 4])
def test_the_error_shrinks_as_samples_settle(store_bits):
    """Of a fixed x, a visit leaves at most a half level of what was missing, and of what the store rounds."""
    bits, x = 3, normal(*SHAPE, seed=0)
    sender, receiver = (make(f"bits={bits},first_bits=1,scale=tensor,store_bits={store_bits}") for _ in range(2))
    errors = [
        float((send(sender, receiver, x, Context(step=step, samples=(4, 9)))[0] - x).abs().max()) for step in range(12)
    ]
    top = float(x.abs().max()) * 1.01
    # A value kept in 8 or 4 bits is off by up to half a level of its sample's channel.
    kept = {32: 0.0, 16: top * 2**-11}.get(store_bits, top * 2**-store_bits)
    bound = top / 2
    for error in errors:
        assert error <= bound + 1e-7
        bound = (error + kept) * 1.01 / 2**bits
    assert errors[-1] <= kept * 1.1 / (2**bits - 1.01) + 1e-6 < errors[0]


@settings(max_examples=20)
@given(bits=st.integers(1, 8), scale=st.sampled_from(["token", "channel", "tensor"]), seed=st.integers(0, 99))
def test_with_a_zero_no_value_moves_away(bits, scale, seed):
    """`grid=acsgd`, the paper's: a visit never leaves a value further from where it is than the last one did."""
    ends = [make(f"bits={bits},scale={scale},grid=acsgd,store_bits=32") for _ in range(2)]
    x, y = normal(*SHAPE, seed=seed), normal(*SHAPE, seed=seed + 1000)
    y[:, 0] += 1000 * normal(2, 6, seed=seed + 2000)  # one token moves far
    send(*ends, x, Context(step=0, samples=(0, 1)))
    for step in range(1, 4):
        seen, _ = send(*ends, y, Context(step=step, samples=(0, 1)))
        rounding = 1e-3 * (y - x).abs() + 1e-5  # of the scale, a float16, and of y - m
        assert ((seen - y).abs() <= (x - y).abs() + rounding).all()
        x = seen


def test_without_a_zero_one_token_that_moves_far_disturbs_the_others():
    """Why: on the grid without a zero all that shares its scale moves by a quarter of it, needed or not."""
    x = normal(1, 64, 8, seed=0)
    y = x.clone()
    y[:, 0] += 1000
    missed = {}
    for grid in ("midrise", "acsgd"):
        ends = [make(f"bits=2,scale=channel,grid={grid},store_bits=32", (1, 64, 8)) for _ in range(2)]
        send(*ends, x, Context(step=0, samples=(0,)))
        seen, _ = send(*ends, y, Context(step=1, samples=(0,)))
        missed[grid] = float((seen - y)[:, 1:].abs().max())
    assert missed["acsgd"] == 0.0 and missed["midrise"] > 200


def test_a_quantiser_alone_does_not_settle():
    """The point of it all: at the same bits, direct quantisation stays off."""
    x = normal(*SHAPE, seed=0)
    quantize = parse("pp.forward=quantize:bits=3,scale=tensor").make(TensorSpec(SHAPE, torch.float32), "q")
    direct = (quantize.decode(quantize.encode(x, Context()), Context()) - x).abs().max()
    ends = [make("bits=3,scale=tensor") for _ in range(2)]
    seen = [send(*ends, x + 0.01 * normal(*SHAPE, seed=9 + s), Context(step=s, samples=(0, 1)))[0] for s in range(3)]
    assert (seen[-1] - x).abs().max() < direct / 5


@given(
    visits=st.lists(st.lists(st.integers(0, 5), min_size=3, max_size=3), min_size=1, max_size=12),
    options=st.sampled_from(
        ["bits=2", "bits=4,first_bits=8", "bits=3,store_bits=4,scale=channel", "bits=8,store_bits=32,scale=block"]
    ),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    saved=st.integers(0, 11),
)
def test_both_ends_remember_the_same_whatever_comes(visits, options, dtype, saved):
    """Samples that come in any order, twice in a step, twice in a micro-batch; and after a restart."""
    sender, receiver = (make(options, (3, 4, 6), dtype) for _ in range(2))
    for place, samples in enumerate(visits):
        context = Context(step=place // 2, microbatch=place % 2, samples=tuple(samples))
        seen, _ = send(sender, receiver, normal(3, 4, 6, seed=place).to(dtype), context)
        assert torch.isfinite(seen).all()
        assert alike(sender.state_dict(), receiver.state_dict())
        if place == saved:
            for again in (sender, receiver):
                state = {name: tensor.clone() for name, tensor in again.state_dict().items()}
                again.load_state_dict(state)


@settings(max_examples=20)
@given(visits=st.lists(st.lists(st.integers(0, 9), min_size=2, max_size=2), max_size=20))
def test_ram_and_disk_are_the_same_bit_for_bit(visits):
    ends = [[make(f"bits=3,store={store},store_bits=8") for _ in range(2)] for store in ("ram", "disk")]
    for step, samples in enumerate(visits):
        context, x = Context(step=step // 3, microbatch=step % 3, samples=tuple(samples)), normal(*SHAPE, seed=step)
        coming = [
            Context(step=step // 3, microbatch=m, samples=tuple(visits[step + m]))
            for m in range(3)
            if step % 3 == 0 and step + m < len(visits)
        ]
        for end in ends[1]:
            end.begin(coming)
        seen = [send(*pair, x, context)[0] for pair in ends]
        assert torch.equal(*seen)
    assert alike(ends[0][0].state_dict(), ends[1][1].state_dict())
    assert alike(ends[0][1].snapshot(), ends[1][0].snapshot())


def test_payloads_can_be_announced_before_the_ones_before_have_come():
    """A sample's first two visits in one step: the receiver knows both sizes beforehand."""
    sender, receiver = make("bits=4"), make("bits=4")
    contexts = [Context(step=3, microbatch=m, samples=(7, 8)) for m in range(2)]
    announced = [receiver.payload(context) for context in contexts]
    for context, specs in zip(contexts, announced, strict=True):
        assert sender.payload(context) == specs
        payload = sender.encode(normal(*SHAPE, seed=context.microbatch), context)
        assert sender.payload(context) == specs  # asked again, when it has been sent
        receiver.decode(payload, context)
    assert alike(sender.state_dict(), receiver.state_dict())


def test_the_rows_of_this_micro_batch_and_of_the_next_are_read_ahead(tmp_path, monkeypatch):
    fetched, get = [], disk_store._get
    monkeypatch.setattr(disk_store, "_get", lambda *args: fetched.append(args[2]) or get(*args))
    codec = make("store=disk")
    assert isinstance(codec, Delta)
    codec.folder = tmp_path
    x = normal(*SHAPE, seed=0)

    def contexts(step: int) -> list[Context]:
        return [Context(step=step, microbatch=m, samples=(2 * m, 2 * m + 1)) for m in range(4)]

    for context in contexts(0):
        codec.encode(x, context)
    assert isinstance(codec._rows, DiskRows)
    codec._rows.flush()  # rows that wait to be written are read from where they wait

    def so_far() -> list[int]:
        codec._rows._thread.submit(int).result()  # it has done what came before
        return fetched

    codec.begin(contexts(1))
    assert so_far() == [0, 1, 2, 3]
    for context in contexts(1):
        codec.encode(x, context)
        assert so_far() == [*range(min(2 * context.microbatch + 6, 8))]


@pytest.mark.parametrize("context", [Context(step=9, training=False, samples=(0, 1)), Context(step=9)])
def test_evaluation_quantises_directly_and_remembers_nothing(context):
    sender, receiver = make("bits=4"), make("bits=4")
    for step in range(2):
        send(sender, receiver, normal(*SHAPE, seed=step), Context(step=step, samples=(0, 1)))
    before = {name: tensor.clone() for name, tensor in sender.state_dict().items()}
    x = normal(*SHAPE, seed=7)
    quantize = parse("pp.forward=quantize:bits=4").make(TensorSpec(SHAPE, torch.float32), "q")
    payload = sender.encode(x, context)
    assert torch.equal(receiver.decode(payload, context), quantize.decode(quantize.encode(x, context), context))
    assert alike(sender.state_dict(), before) and alike(receiver.state_dict(), before)


def test_values_beyond_float16_are_kept_as_near_as_it_can():
    sender, receiver = make("bits=8"), make("bits=8")
    x = 1e6 * normal(*SHAPE, seed=0)
    for step in range(2):
        seen, _ = send(sender, receiver, x, Context(step=step, samples=(0, 1)))
    assert (seen - x).abs().max() < 1e6 * 4 / 2**8


def test_more_samples_than_allowed_end_the_run():
    codec = make("max_samples=2")
    codec.encode(normal(*SHAPE, seed=0), Context(samples=(0, 1)))
    with pytest.raises(MccError, match="more than max_samples = 2"):
        codec.encode(normal(*SHAPE, seed=0), Context(step=1, samples=(1, 2)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pp.backward=delta", "quantises them directly"),
        ("dp.grad=delta", "of a whole step"),
        ("tp.forward=delta", "two ends of one link"),
        ("pp.forward=delta:bits=9", "not in 1..8"),
        ("pp.forward=delta:store_bits=3", "none of 2, 4, 8, 16, 32"),
        ("pp.forward=delta:first_bits=9", "not in 0..8"),
        ("pp.forward=delta:max_samples=0", "at least 1"),
        ("pp.forward=delta:feedback=on", "sends again what it lost"),
    ],
)
def test_what_makes_no_sense_is_refused(text, words):
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert words in caught.value.what and "\n" not in caught.value.what


def recurring(engine, steps):
    """The losses of steps on two batches in turn; in the second epoch the replicas have changed places."""
    mesh, losses = engine.mesh, []
    for _ in range(steps):
        epoch, place = divmod(engine.iteration, 2)
        replica = (mesh.dp_rank + epoch) % mesh.dp
        batch = toy_batch(place, replica, mesh.dp)
        each = 8 // mesh.dp
        batch["ids"] = torch.arange(8 * place + replica * each, 8 * place + (replica + 1) * each)
        losses.append(engine.step(batch).loss)
    return losses


def _remembered(config, steps):
    engine = make_engine(config)
    mesh, sent = engine.mesh, []
    losses = []
    for _ in range(steps):
        losses += recurring(engine, 1)
        sent.append(mesh.wire.take().get("pp.forward", 0))
    states = {key: codec.state_dict() for key, codec in engine.codecs().items()}
    return (mesh.dp_rank, mesh.cp_rank, mesh.tp_rank), losses, sent, states


LAYOUTS = {
    "1f1b": ((1, 2, 1), {}, {"micro_batch_size": 2}),
    "gpipe": ((1, 2, 1), {"schedule": "gpipe"}, {"precision": "bf16"}),
    "interleaved": ((1, 2, 1), {"vpp": 2}, {"precision": "fp16"}),
    "zero-bubble": ((1, 2, 1), {"vpp": 2, "schedule": "zero-bubble"}, {}),
    "zbv": ((1, 2, 1), {"vpp": 2, "schedule": "zbv"}, {}),
    "dualpipev": ((1, 2, 1), {"vpp": 2, "schedule": "dualpipev"}, {}),
    "all-axes": ((2, 2, 2), {"sequence_parallel": True, "recompute_granularity": "full"}, {}),
    "context": ((1, 2, 1), {"cp": 2}, {}),
    "disk": ((1, 2, 1), {}, {"micro_batch_size": 2}),
}
# Those of a check of every change; `make slow` has all.
EVERY = ("gpipe", "dualpipev", "all-axes", "context")


@pytest.mark.parametrize("name", of_every_change(LAYOUTS, EVERY))
def test_both_ends_of_every_boundary_remember_the_same(name):
    layout, parallel, run = LAYOUTS[name]
    options = "bits=4,scale=channel" + (",store=disk" if name == "disk" else "")
    compress = (f"pp.forward=delta:{options}", "pp.backward=quantize:bits=8")
    ranks = math.prod(layout) * parallel.get("cp", 1)
    found = run_ranks(_remembered, ranks, toy_config(*layout, compress, parallel=parallel, **run), 5)
    ends: dict[tuple, dict] = {}
    for place, losses, _, states in found:
        assert all(map(math.isfinite, losses)) and losses == found[0][1]
        for key, state in states.items():
            if key.startswith("pp.forward"):
                boundary, _, end = key.rpartition("/")
                ends.setdefault((place, boundary), {})[end] = state
    stages = layout[1] * parallel.get("vpp", 1)
    alone = stages - 1 if parallel.get("schedule") not in ("zbv", "dualpipev") else stages - 2
    assert len(ends) == alone * ranks / layout[1]
    for boundary, both in ends.items():
        assert alike(both["send"], both["receive"]), boundary
        assert sorted(both["send"]["samples"].tolist()) == list(range(16))
    dense = max(sent[0] for _, _, sent, _ in found)
    last = max(sent[-1] for _, _, sent, _ in found)
    assert last < dense / (1.8 if run.get("precision") else 3)
