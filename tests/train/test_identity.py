"""The codec `none` equals dense training bit for bit at every site; compressed replicas never drift."""

from __future__ import annotations

import math

import pytest
import torch
import torch.distributed as dist

from mcc.train.compress.spec import SITES
from tests.ranks import run_ranks
from tests.train.toy import make_engine, toy_config, train, trained

EVERYWHERE = tuple(f"{site}=none" for site in SITES)
COMPRESSED = (
    "pp.forward=quantize:bits=4",
    "pp.backward=powersgd:rank=4,feedback=on",
    "tp.forward=quantize:bits=6",
    "tp.backward=quantize:bits=8,scale=block",
    "dp.grad=powersgd:rank=2,feedback=on,warmup=2",
)


# Two ranks of each axis, and four of one: there the order of a sum is told by its bits.
@pytest.mark.parametrize(
    ("layout", "more"),
    [
        pytest.param((2, 2, 2), {"schedule": "1f1b"}, marks=pytest.mark.slow),
        ((2, 2, 2), {"schedule": "gpipe", "sequence_parallel": True}),
        ((1, 2, 2), {"schedule": "1f1b", "vpp": 2}),
        ((2, 2, 1), {"schedule": "zero-bubble", "vpp": 2}),
        ((1, 2, 2), {"schedule": "zbv", "vpp": 2}),
        ((2, 2, 1), {"schedule": "dualpipev", "vpp": 2}),
        ((1, 1, 4), {"zero": 1}),
        ((1, 1, 2), {"cp": 2}),
        pytest.param((4, 1, 1), {"precision": "bf16"}, marks=pytest.mark.slow),
        ((4, 1, 1), {"precision": "bf16", "sequence_parallel": True}),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, (tuple, dict)) else None,
)
def test_identity_equals_dense_bit_for_bit(layout, more):
    parallel = {name: value for name, value in more.items() if name != "precision"}
    run = {"precision": more.get("precision", "fp32")}
    ranks = math.prod(layout) * parallel.get("cp", 1)
    dense = run_ranks(trained, ranks, toy_config(*layout, parallel=parallel, **run), 6)
    identity = run_ranks(trained, ranks, toy_config(*layout, EVERYWHERE, parallel=parallel, **run), 6)
    for (a_losses, a), (b_losses, b) in zip(dense, identity, strict=True):
        assert a_losses == b_losses
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)


def _replicas(config, steps):
    """This rank's place, its losses, its parameters, and what it sent by site."""
    engine = make_engine(config)
    losses = train(engine, steps)
    mesh = engine.mesh
    parameters = {name: p.detach().clone() for name, p in engine.parameters.items()}
    replicated = [name for name in parameters if engine.family.row(name).tp_dim is None]
    return (mesh.pp_rank, mesh.replica, mesh.tp_rank), losses, parameters, replicated, mesh.wire.take()


# What all tensor-parallel ranks hold is coded apart from what each holds alone.
QUANTIZED = (*COMPRESSED[:-1], "dp.grad=quantize:bits=4,scale=tensor,feedback=on")


@pytest.mark.parametrize(
    ("compress", "parallel"),
    [(COMPRESSED, {}), (COMPRESSED, {"cp": 2, "sequence_parallel": True}), (QUANTIZED, {"zero": 1})],
)
def test_compressed_replicas_never_drift(compress, parallel):
    dp = 2 // parallel.get("cp", 1)
    steps = 16 if compress == COMPRESSED and dp == 2 else 6
    results = run_ranks(_replicas, 8, toy_config(2, 2, dp, compress, parallel=parallel), steps)
    by_place = {place: parameters for place, _, parameters, _, _ in results}
    for (pp, dp, tp), losses, parameters, replicated, _ in results:
        assert losses == results[0][1]
        for name, value in parameters.items():
            assert torch.equal(value, by_place[pp, 0, tp][name]), f"{name} differs between replicas 0 and {dp}"
        for name in replicated:
            assert torch.equal(parameters[name], by_place[pp, dp, 0][name]), f"{name} differs over tensor ranks"
    tied = "embedding.tokens.weight"
    assert torch.equal(by_place[0, 0, 1][tied], by_place[1, 1, 1][tied])


def test_compression_shrinks_what_every_site_sends():
    dense = run_ranks(_replicas, 8, toy_config(2, 2, 2), 4)
    small = run_ranks(_replicas, 8, toy_config(2, 2, 2, COMPRESSED), 4)
    for (*_, sent_dense), (*_, sent_small) in zip(dense, small, strict=True):
        for site in ("pp.forward", "pp.backward", "tp.forward", "tp.backward"):
            if site in sent_dense:
                assert sent_small[site] < sent_dense[site]
    assert (
        sum(s.get("pp.forward", 0) for *_, s in dense) == 4 * 4 * 4 * 16 * 32 * 4
    )  # steps, ranks, micro-batches, T, D, bytes


def _world() -> int:
    return dist.get_world_size()


def test_harness_reports_the_failing_rank():
    with pytest.raises(pytest.fail.Exception, match="rank 1 failed"):
        run_ranks(_fails_on_rank_one, 2)
    assert run_ranks(_world, 2) == [2, 2]


def _fails_on_rank_one() -> None:
    assert dist.get_rank() != 1, "on purpose"


# Twenty steps of sets that differ in what they cross (test_every_codec.py has three of every pair): codecs that add
# payloads at every site, two-shot sums over four ranks, 1 bit.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "compress"),
    [
        (
            (2, 2, 2),
            ("tp.forward=powersgd:rank=8,feedback=on", "tp.backward=none", "dp.grad=quantize:bits=8,feedback=on"),
        ),
        ((4, 2, 1), ("tp.forward=quantize:bits=8", "tp.backward=quantize:bits=8", "pp.forward=powersgd:rank=16")),
        ((1, 2, 4), ("pp.backward=quantize:bits=3,scale=channel,warmup=0.5", "dp.grad=quantize:bits=4,feedback=on")),
        ((1, 1, 4), ("dp.grad=quantize:bits=1,scale=block,feedback=on",)),
        (
            (2, 2, 1),
            ("tp.forward=hadamard", "tp.backward=fp8:format=e5m2", "pp.forward=topk:ratio=0.3", "pp.backward=sign"),
        ),
        (
            (2, 1, 2),
            (
                "tp.forward=powersgd:rank=8,per=sample",
                "tp.backward=quantize:grid=acsgd,scale=channel,range=rms",
                "dp.grad=sign:feedback=on",
            ),
        ),
        (
            (1, 2, 2),
            (
                "pp.forward=quantize:bits=4,rounding=stochastic",
                "pp.backward=randomk:ratio=0.7,rescale=on",
                "dp.grad=topk:ratio=0.2,feedback=on",
                "embedding=randomk:ratio=0.5,feedback=on",
            ),
        ),
    ],
)
def test_every_codec_trains_at_every_site(layout, compress):
    dense = run_ranks(trained, 1, toy_config(), 20)[0][0]
    results = run_ranks(_replicas, layout[0] * layout[1] * layout[2], toy_config(*layout, compress), 20)
    losses = results[0][1]
    assert losses[-1] < dense[0] - 0.2, "it learns"
    assert losses[-1] == pytest.approx(dense[-1], abs=0.25)
    by_place = {place: parameters for place, _, parameters, _, _ in results}
    for (pp, _, tp), _, parameters, _, _ in results:
        assert all(torch.equal(value, by_place[pp, 0, tp][name]) for name, value in parameters.items())
