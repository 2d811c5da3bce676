"""`randomk`: places that are drawn alike everywhere, unbiased where asked for, added without decoding."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from mcc.core.errors import UsageError
from mcc.train.compress.codec import Context, TensorSpec
from mcc.train.compress.collective import Collective, CompressedGather, CompressedSum
from mcc.train.compress.spec import parse
from mcc.train.compress.wire import Wire
from tests.ranks import run_ranks
from tests.train.compress.streams import make, normal, through


def test_k_values_stay_as_they_are_and_no_index_is_sent():
    x = normal(10, 30)
    y = through("randomk:k=20,values=32", x)
    assert make("randomk:k=20,values=32", (10, 30)).payload_bytes == 80
    assert int((y != 0).sum()) == 20 and torch.equal(y[y != 0], x[y != 0])


@pytest.mark.parametrize("n", [1, 2, 7, 60, 64])
def test_places_differ_and_are_drawn_evenly(n):
    """Over 4000 draws every value is sent k/n of the time; five standard deviations are allowed."""
    codec, draws, k = make("randomk:k=3", (n,)), 4000, min(3, n)
    counts = torch.zeros(n)
    for step in range(draws):
        places = codec._places(Context(step=step), torch.device("cpu"))
        assert len(places.unique()) == k
        counts[places] += 1
    share = k / n
    assert ((counts / draws - share).abs() <= 5 * (share * (1 - share) / draws) ** 0.5 + 1e-9).all()


def test_draws_differ_by_stream_step_microbatch_and_phase():
    contexts = [Context(), Context(step=1), Context(microbatch=1), Context(training=False)]
    drawn = [tuple(make("randomk:k=5", (1000,))._places(c, torch.device("cpu")).tolist()) for c in contexts]
    drawn.append(tuple(make("randomk:k=5", (1000,), key="other")._places(Context(), torch.device("cpu")).tolist()))
    assert len(set(drawn)) == 5


@pytest.mark.parametrize(("rescale", "wanted"), [("off", 1 - 1 / 4), ("on", 4 - 1)])
def test_mean_error_is_what_the_mathematics_says(rescale, wanted):
    x = normal(100)
    codec = make(f"randomk:ratio=0.25,values=32,rescale={rescale}", (100,))
    seen = [codec.decode(codec.encode(x, c), c) for c in (Context(step=step) for step in range(3000))]
    errors = torch.stack([(y - x).square().sum() for y in seen])
    assert errors.mean() / x.square().sum() == pytest.approx(wanted, rel=0.02)
    if rescale == "on":  # unbiased: a mean of 3000 has a standard deviation of sqrt(3/3000) of a value
        assert ((torch.stack(seen).mean(0) - x).abs() <= 5 * 0.0317 * x.abs()).all()


def test_feedback_is_refused_where_it_would_grow():
    with pytest.raises(UsageError, match="would grow"):
        parse("pp.forward=randomk:rescale=on,feedback=on")
    parse("pp.forward=randomk:feedback=on")


def _sums(text):
    size, rank = dist.get_world_size(), dist.get_rank()
    wire = Wire()
    group = Collective(dist.group.WORLD, size, rank, wire, "dp.grad")
    spec = TensorSpec((6, 8), torch.float32)
    total = CompressedSum(parse(text), spec, "bucket", group)
    everyone = [normal(20, 6, 8, seed=r).round() for r in range(size)]
    found = [total(everyone[rank][step], Context(step=step)) for step in range(20)]
    sent = wire.take()["dp.grad"]
    gathered = CompressedGather(parse("dp.grad=randomk:ratio=0.5,values=32"), spec, "piece", group)(
        everyone[rank][0], Context()
    )
    codec = total.whole
    return found, sent, everyone, codec.state_dict().get("error"), gathered


@pytest.mark.parametrize("size", [2, 3])
def test_sums_are_added_without_decoding(size):
    results = run_ranks(_sums, size, "dp.grad=randomk:ratio=0.25,values=32")
    for found, sent, everyone, _, gathered in results:
        assert sent == 20 * round(2 * (size - 1) / size * 12 * 4)
        for step, got in enumerate(found):
            assert torch.equal(got, results[0][0][step]), "the same bits on every rank"
            exact = sum(tensors[step] for tensors in everyone)  # small integers: sums are exact
            assert int((got != 0).sum()) <= 12 and torch.equal(got[got != 0], exact[got != 0])
        for piece, tensors in zip(gathered, everyone, strict=True):
            assert int((piece != 0).sum()) > 0 and torch.equal(piece[piece != 0], tensors[0][piece != 0])


def test_feedback_of_a_sum_keeps_what_a_rank_did_not_send():
    """All sums together and what the ranks have left make all that there was; and what was sent leaves no error."""
    results = run_ranks(_sums, 2, "dp.grad=randomk:ratio=0.25,values=32,feedback=on")
    found, _, everyone, *_ = results[0]
    left = [error for _, _, _, error, _ in results]
    torch.testing.assert_close(sum(found) + sum(left), sum(tensors.sum(0) for tensors in everyone))
    for error in left:
        assert int((error == 0).sum()) >= 12
