"""Ring attention equals attention over the whole sequence, outputs and gradients, whatever a rank's keys look like."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from mcc.train.compress.collective import Collective
from mcc.train.compress.wire import Wire
from mcc.train.parallel import blocks
from mcc.train.parallel.ring import Ring
from mcc.train.parallel.tokens import Dealt
from tests.ranks import run_ranks
from tests.train.toy import make_engine, toy_batch, toy_config

B, HD, TOKENS = 2, 8, 24  # 24 divides into 2 x 1..4 chunks


@dataclass(frozen=True, kw_only=True)
class Case:
    """One attention to be computed both ways."""

    causal: bool = True
    zigzag: bool = True
    padding: str = ""
    heads: int = 4
    groups: int = 4
    dtype: torch.dtype = torch.float64
    plain: bool = False
    message_bytes: int | None = None


def _padding(kind: str) -> Tensor | None:
    if not kind:
        return None
    seen = torch.ones(B, TOKENS, dtype=torch.bool)
    if kind == "tail":  # uneven: the second sample ends in the first rank's share
        seen[0, 17:] = False
        seen[1, 3:] = False
    elif kind == "head":  # causal: the first queries see nothing at all
        seen[0, :5] = False
        seen[1, :13] = False
    elif kind == "holes":
        seen = torch.rand(B, TOKENS, generator=torch.Generator().manual_seed(3)) < 0.5
    elif kind == "nothing":
        seen[1] = False
    return seen


def _tensors(case: Case) -> list[Tensor]:
    """q, k, v and the output's gradient, of all tokens."""
    generator = torch.Generator().manual_seed(5)
    heads = (case.heads, case.groups, case.groups, case.heads)
    return [torch.randn(B, n, TOKENS, HD, generator=generator, dtype=torch.float64).to(case.dtype) for n in heads]


def _whole(case: Case, dtype: torch.dtype) -> list[Tensor]:
    """Output and gradients by torch's attention over all tokens."""
    q, k, v, grad = (x.to(dtype) for x in _tensors(case))
    q, k, v = (x.requires_grad_() for x in (q, k, v))
    seen = _padding(case.padding)
    mask = torch.ones(1, 1, TOKENS, TOKENS, dtype=torch.bool)
    if seen is not None:
        mask = mask & seen[:, None, None, :]
    if case.causal:
        mask = mask.tril()
    group = case.heads // case.groups
    keys, values = (x.repeat_interleave(group, 1) for x in (k, v))
    scores = (q @ keys.mT / HD**0.5).masked_fill(~mask, -torch.inf)
    weights = scores.softmax(-1).masked_fill(~mask, 0.0)  # a query that sees nothing: NaN without it
    out = weights.nan_to_num() @ values
    if bool(mask.any(-1).all()):
        torch.testing.assert_close(out, F.scaled_dot_product_attention(q, keys, values, attn_mask=mask))
    return [out.detach(), *torch.autograd.grad(out, (q, k, v), grad)]


def _ring(case: Case) -> tuple[list[Tensor], list[Tensor], dict[str, int]]:
    """This rank's output and gradients, those of the reference, and the bytes sent."""
    size, rank = dist.get_world_size(), dist.get_rank()
    wire, dealt = Wire(), Dealt(size, rank, case.zigzag)
    group = [Collective(dist.group.WORLD, size, rank, wire, site) for site in ("cp.kv", "cp.grad")]
    ring = Ring(keys=group[0], grads=group[1], dealt=dealt, message_bytes=case.message_bytes)
    q, k, v, grad = (dealt.own(x, 2) for x in _tensors(case))
    q, k, v = (x.requires_grad_() for x in (q, k, v))
    padding = _padding(case.padding)
    seen = None if padding is None else dealt.own(padding)
    has_kernel = blocks._has_kernel
    blocks._has_kernel = (lambda q, rule: False) if case.plain else has_kernel
    out = ring.attend(q, k, v, case.causal, seen)
    found = [out.detach(), *torch.autograd.grad(out, (q, k, v), grad)]
    blocks._has_kernel = has_kernel
    # In float64 whatever the case: the reference's own rounding is not to be excused.
    return found, [dealt.own(x, 2) for x in _whole(case, torch.float64)], wire.take()


def _every(cases: list[Case]) -> list[tuple[list[Tensor], list[Tensor], dict[str, int]]]:
    return [_ring(case) for case in cases]


CASES = [
    *(Case(padding=padding, groups=groups) for padding in ("", "head", "holes") for groups in (4, 1)),
    *(Case(causal=False, zigzag=False, padding=padding, groups=2) for padding in ("", "tail", "holes", "nothing")),
    *(Case(zigzag=False, padding=padding) for padding in ("", "holes")),
    Case(causal=False, padding="tail"),
    Case(plain=True, padding="holes", groups=2),
    Case(plain=True, padding="head"),
    Case(plain=True, causal=False, zigzag=False, padding="tail", groups=1),
]


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_ring_equals_attention_of_the_whole(size):
    for results in run_ranks(_every, size, CASES):
        for case, (found, wanted, _) in zip(CASES, results, strict=True):
            for name, a, b in zip(("out", "dq", "dk", "dv"), found, wanted, strict=True):
                assert a.dtype == b.dtype and torch.isfinite(a).all(), f"{name} of {case}"
                # float64: sums of at most 24 products of values near 1, and as many exponentials.
                assert (a - b).abs().max() < 1e-13, f"{name} of {case}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_narrow_inputs(dtype):
    """A result is rounded once (eps/2), each block's output once more, the weights inside the kernels again."""
    cases = [Case(dtype=dtype, groups=2, causal=c, padding=p) for c in (True, False) for p in ("", "holes")]
    eps = torch.finfo(dtype).eps
    for results in run_ranks(_every, 4, cases):
        for found, wanted, _ in results:
            for a, b in zip(found, wanted, strict=True):
                assert a.dtype == dtype
                bound = 4 * eps * b.abs().max()
                assert (a.double() - b).abs().max() < bound


def test_heads_in_turns_change_nothing():
    """A message a head: the same bits, the same bytes."""
    whole, turns = (Case(groups=2, padding="holes", message_bytes=n) for n in (1 << 30, 1))
    for (a, _, sent), (b, _, sent_in_turns) in run_ranks(_every, 3, [whole, turns]):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
        mask = 2 * (3 - 1) * B * TOKENS // 3  # the padding goes with each message
        assert sent_in_turns == {"cp.kv": sent["cp.kv"] + mask, "cp.grad": sent["cp.grad"]}


@pytest.mark.parametrize("groups", [4, 1])
def test_bytes_sent(groups):
    """2(N-1)m elements forward, keys and values again backward, and their gradients: groups, not heads."""
    size = 4
    m = B * groups * (TOKENS // size) * HD
    for ((_, _, sent),) in run_ranks(_every, size, [Case(groups=groups, dtype=torch.bfloat16)]):
        assert sent == {"cp.kv": 2 * 2 * (size - 1) * m * 2, "cp.grad": 2 * (size - 1) * m * 4}


def _dropped(p: float, padding: str) -> None:
    """With dropout: v as unit vectors shows which weights were kept; with these fixed all else must follow."""
    size, rank = dist.get_world_size(), dist.get_rank()
    dealt = Dealt(size, rank, zigzag=True)
    group = Collective(dist.group.WORLD, size, rank, Wire(), "cp.kv")
    ring = Ring(keys=group, grads=group, dealt=dealt, message_bytes=1)
    generator = torch.Generator().manual_seed(1)
    q, k, v, grad = (torch.randn(B, 4, TOKENS, TOKENS, generator=generator, dtype=torch.float64) for _ in range(4))
    k, v = k[:, :2], v[:, :2]
    seen = _padding(padding)
    own_seen = None if seen is None else dealt.own(seen)
    units = torch.eye(TOKENS, dtype=torch.float64).expand_as(v)

    def ringed(*whole: Tensor) -> tuple[Tensor, list[Tensor]]:
        torch.manual_seed(100 + rank)  # as `Randomness.drawing` does
        own = [dealt.own(x, 2).requires_grad_() for x in whole]
        out = ring.attend(*own, True, own_seen, p)
        return out.detach(), own

    rows = [torch.empty(B, 4, TOKENS // size, TOKENS, dtype=torch.float64) for _ in range(size)]
    dist.all_gather(rows, ringed(q, k, units)[0].contiguous())
    kept = torch.empty(B, 4, TOKENS, TOKENS, dtype=torch.bool)
    for other, found in enumerate(rows):
        kept[:, :, Dealt(size, other, True).positions(TOKENS // size)] = found > 0
    q, k, v = (x.requires_grad_() for x in (q, k, v))
    mask = torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril().expand(B, 1, TOKENS, TOKENS)
    mask = mask if seen is None else mask & seen[:, None, None, :]
    keys, values = (x.repeat_interleave(2, 1) for x in (k, v))
    weights = (q @ keys.mT / TOKENS**0.5).masked_fill(~mask, -torch.inf).softmax(-1).nan_to_num()
    shown = kept.masked_select(mask.expand_as(kept)).double()
    deviation = (p * (1 - p) / shown.numel()) ** 0.5
    assert abs(float(shown.mean()) - (1 - p)) < 4 * deviation
    for head in range(1, 4):  # every head draws its own
        assert not torch.equal(kept[:, head], kept[:, 0])
    out = (weights * kept / (1 - p)) @ values
    wanted = [out, *torch.autograd.grad(out, (q, k, v), grad)]
    found, own = ringed(*(x.detach() for x in (q, k, v)))
    torch.manual_seed(100 + rank)
    again = ring.attend(*own, True, own_seen, p)
    assert torch.equal(again, found)  # as a recomputation has it
    gradients = torch.autograd.grad(again, own, dealt.own(grad, 2))
    for name, a, b in zip(("out", "dq", "dk", "dv"), (found, *gradients), wanted, strict=True):
        assert (a - dealt.own(b, 2)).abs().max() < 1e-12, name


@pytest.mark.parametrize("padding", ["", "holes"])
def test_dropout_draws_the_same_forward_and_backward(padding):
    run_ranks(_dropped, 3, 0.3, padding)


def _peak_bytes(tokens: int, rings: bool, causal: bool) -> int:
    """The most that attention's tensors take forward and backward, inputs and kernels' temporaries included."""
    size, rank = dist.get_world_size(), dist.get_rank()
    group = Collective(dist.group.WORLD, size, rank, Wire(), "cp.kv")
    ring = Ring(keys=group, grads=group, dealt=Dealt(size, rank, causal), message_bytes=1)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        q, k, v = (torch.randn(1, 12, tokens, 32, requires_grad=True) for _ in range(3))
        out = ring.attend(q, k, v, causal) if rings else F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        out.backward(torch.randn(1, 12, tokens, 32))
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(itertools.accumulate(changes))


@pytest.mark.parametrize("causal", [True, False])
def test_memory_does_not_grow_with_the_ranks(causal):
    """N times the tokens on N ranks take at most 1.25 times what a rank takes alone."""
    (alone,) = run_ranks(_peak_bytes, 1, 512, False, causal)
    assert alone >= 8 * 12 * 512 * 32 * 4  # q, k, v, the output and their gradients
    for peak in run_ranks(_peak_bytes, 4, 512, True, causal):
        assert peak <= 1.25 * alone


def _sent(granularity: str) -> tuple[float, dict[str, int]]:
    config = toy_config(parallel={"cp": 2, "recompute_granularity": granularity})
    engine = make_engine(config)
    loss = engine.step(toy_batch(0, 0, 1)).loss
    return loss, engine.mesh.wire.take()


def test_selective_recomputation_sends_nothing_twice():
    """The ring keeps no weights, so nothing is computed again; whole layers are, and their messages go again."""
    plain, selective, full = (run_ranks(_sent, 2, how)[0] for how in ("none", "selective", "full"))
    assert selective == plain
    # Keys and values travel once forward and once backward, and once more for layers that are computed again.
    assert 2 * full[1]["cp.kv"] == 3 * plain[1]["cp.kv"]
    assert full[0] == plain[0]
