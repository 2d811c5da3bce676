"""Compressed sums: exact with the identity, the same bits on every rank, and the bytes that leave counted."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from mcc.train.compress.codec import Context, TensorSpec
from mcc.train.compress.collective import Collective, CompressedScatter, CompressedSum
from mcc.train.compress.spec import parse
from mcc.train.compress.wire import Wire
from tests.ranks import run_ranks

SHAPE = (3, 5, 8)


def _sums(text: str, steps: int):
    size, rank = dist.get_world_size(), dist.get_rank()
    wire = Wire()
    group = Collective(dist.group.WORLD, size, rank, wire, "tp.forward")
    total = CompressedSum(parse(text), TensorSpec(SHAPE, torch.float32), "layer", group)
    found = []
    for step in range(steps):
        # Small integers: their sums are exact in any order.
        everyone = [torch.randint(-9, 9, SHAPE, generator=_seed(step, r)).float() for r in range(size)]
        found.append((total(everyone[rank], Context(step=step)), sum(everyone)))
    slices = total.shots[0].slices if total.shots else []
    return found, wire.take()["tp.forward"], total.whole.payload_bytes, [c.payload_bytes for c in slices]


def _seed(step: int, rank: int) -> torch.Generator:
    return torch.Generator().manual_seed(100 * step + rank)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_identity_sums_exactly(size):
    for found, sent, whole, slices in run_ranks(_sums, size, "tp.forward=none", 2):
        for got, wanted in found:
            assert torch.equal(got, wanted)
        # Summed as uncompressed tensors are, in a ring: 2(N-1)/N of the tensor leaves a rank.
        assert sent == 2 * round(2 * (size - 1) / size * whole) and not slices


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize(
    "text",
    ["tp.forward=quantize:bits=6", "tp.forward=quantize:bits=4,feedback=on", "tp.forward=powersgd:rank=2,feedback=on"],
)
def test_every_rank_gets_the_same_bits(size, text):
    results = run_ranks(_sums, size, text, 3)
    for per_rank in zip(*(found for found, *_ in results), strict=True):
        for got, _ in per_rank[1:]:
            assert torch.equal(got, per_rank[0][0])


def test_quantised_sum_is_within_its_bound():
    """Two ranks: the sum of both quantisers' half levels."""
    for found, *_ in run_ranks(_sums, 2, "tp.forward=quantize:bits=6,scale=tensor", 2):
        for got, wanted in found:
            assert (got - wanted).abs().max() <= 2 * 9 * 1.01 / 2**6


def test_two_shots_send_less_than_gathering():
    (_, sent, whole, _), *_ = run_ranks(_sums, 4, "tp.forward=quantize:bits=8,scale=tensor", 1)
    assert sent < 3 * whole * 0.75


def _drawn():
    """The same tensors on all ranks, rounded stochastically: what their sums miss, and what each rank misses."""
    size, rank = dist.get_world_size(), dist.get_rank()
    group = Collective(dist.group.WORLD, size, rank, Wire(), "dp.grad")
    spec, context = parse("dp.grad=quantize:bits=4,rounding=stochastic"), Context()
    x = torch.randn(size, 64, 128, generator=_seed(3, 0))
    scatter = CompressedScatter(spec, TensorSpec((64, 128), torch.float32), "layer", group)
    own = [codec.decode(codec.encode(x, context), context) - x for codec, x in zip(scatter.slices, x, strict=True)]
    return scatter(list(x), context) - size * x[rank], own


def test_ranks_of_a_sum_round_by_draws_of_their_own():
    """Independent errors of mean 0: the square of their sum is the sum of their squares; with the same draws N times.

    A value's part in it has a standard deviation of about the mean, so 8192 values are within 5% (over 4 sigma).
    """
    results = run_ranks(_drawn, 4)
    for piece, (missed, _) in enumerate(results):
        alone = sum(own[piece].square().sum() for _, own in results)
        assert float(missed.square().sum()) == pytest.approx(float(alone), rel=0.05)


def _through_the_host():
    """Every collective with staging forced: what a GPU's tensors go through."""
    size, rank = dist.get_world_size(), dist.get_rank()
    found = []
    for staged in (False, True):
        group = Collective(dist.group.WORLD, size, rank, Wire(), "tp.forward")
        copies: list[torch.Tensor] = []
        if staged:
            group.host = lambda x, kept=copies: kept.append(x.clone()) or kept[-1]
        pieces = list(torch.randn(size, 4, generator=_seed(1, rank)))
        sums = [group.sum_(pieces[0].clone()), group.max_(pieces[0].clone()), *group.sum_flat([pieces[0], pieces[1]])]
        found.append([*sums, *group.gather(pieces[0]), *group.exchange(pieces), group.scatter_sum(pieces)])
        assert len(copies) == (6 if staged else 0)
    return found


def test_host_copies_come_back():
    for plain, staged in run_ranks(_through_the_host, 3):
        assert all(torch.equal(a, b) for a, b in zip(plain, staged, strict=True))


def _scatter(dtype):
    size, rank = dist.get_world_size(), dist.get_rank()
    everyone = [torch.randn(size, 50, generator=_seed(2, r), dtype=torch.float64).to(dtype) for r in range(size)]
    mine = Collective(dist.group.WORLD, size, rank, Wire(), "tp.forward").scatter_sum(list(everyone[rank]))
    return mine, sum(x[rank].double() for x in everyone)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_narrow_terms_are_added_in_float32(dtype):
    """Rounded once: half a unit in the last place of the sum, and float32's own additions."""
    for mine, wanted in run_ranks(_scatter, 4, dtype):
        assert mine.dtype == dtype
        bound = torch.finfo(dtype).eps / 2 * wanted.abs() + 4 * torch.finfo(torch.float32).eps * 4
        assert ((mine.double() - wanted).abs() <= bound).all()
