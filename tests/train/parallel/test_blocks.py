"""The kernels of a block agree with the plain path, by themselves and merged, on every device there is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mcc.train.parallel import blocks
from mcc.train.parallel.blocks import Rule, attend, gradients, merge

B, NP, NG, T, HD = 2, 4, 2, 40, 16
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")),
]


def _tensors(device: str, dtype: torch.dtype, keys: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = ((B, NP, T, HD), (B, NG, keys, HD), (B, NG, keys, HD), (B, NP, T, HD))
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype) for shape in shapes]


def _padding(device: str, keys: int) -> Tensor:
    seen = torch.rand(B, keys, generator=torch.Generator().manual_seed(2)) < 0.6
    seen[1, : keys // 2] = False
    return seen.to(device)


def _whole(q: Tensor, k: Tensor, v: Tensor, grad: Tensor, rules: list[Rule], kernels: bool) -> list[Tensor]:
    """Attention over equal blocks of the keys, one after the other, forward and backward."""
    chosen = blocks._has_kernel
    if not kernels:
        blocks._has_kernel = lambda q, rule: False
    try:
        parts = list(zip(k.chunk(len(rules), 2), v.chunk(len(rules), 2), strict=True))
        total: tuple[Tensor, Tensor] | None = None
        states = []
        for (key, value), rule in zip(parts, rules, strict=True):
            out, lse, state = attend(q, key, value, rule)
            states.append(state)
            if total is None:
                total = out.double(), lse.clone()
            else:
                merge(*total, out, lse)
        assert total is not None
        out, lse = total[0].to(q.dtype), total[1].masked_fill(total[1] == -torch.inf, torch.inf)
        found = [
            gradients(grad, q, key, value, out, lse.contiguous(), rule, state)
            for (key, value), rule, state in zip(parts, rules, states, strict=True)
        ]
        dq = sum(dq.double() for dq, _, _ in found)
        return [out, dq, torch.cat([dk for _, dk, _ in found], 2), torch.cat([dv for _, _, dv in found], 2)]
    finally:
        blocks._has_kernel = chosen


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_kernels_equal_the_plain_path(device, dtype, padded, causal):
    """Causal: one block; else two, merged. Against float64, a few roundings of the dtype away."""
    count = 1 if causal else 2
    keys = T * count
    tensors = _tensors(device, dtype, keys)
    padding = _padding(device, keys) if padded else None
    rules = [Rule(causal, None if padding is None else padding.chunk(count, 1)[i]) for i in range(count)]
    found = _whole(*tensors, rules, kernels=True)
    wanted = _whole(*(x.double() for x in tensors), rules, kernels=False)
    for a, b in zip(found, wanted, strict=True):
        assert torch.isfinite(a).all()
        assert (a.double() - b).abs().max() < 8 * torch.finfo(dtype).eps * b.abs().max()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_is_the_same_backward(device, dtype):
    """The output is linear in v: its gradient at v must give the output's change, weight for weight."""
    q, k, v, grad = _tensors(device, dtype, T)
    rule = Rule(dropout=0.4, seed=9)
    out, lse, state = attend(q, k, v, rule)
    again, _, _ = attend(q, k, v, rule)
    assert torch.equal(out, again)
    other, _, _ = attend(q, k, v, Rule(dropout=0.4, seed=10))
    assert not torch.equal(out, other)
    _, _, dv = gradients(grad, q, k, v, out, lse, rule, state)
    products = (grad.double() * out.double()).sum(), (dv.double() * v.double()).sum()
    scale = (grad.double() * out.double()).abs().sum()
    assert (products[0] - products[1]).abs() < 4 * torch.finfo(dtype).eps * scale


def test_plain_path_in_slabs(monkeypatch):
    """Few queries at a time change nothing, dropout included."""
    q, k, v, grad = _tensors("cpu", torch.float64, T)
    monkeypatch.setattr(blocks, "_has_kernel", lambda q, rule: False)
    rule = Rule(causal=True, padding=_padding("cpu", T))
    found = []
    for scores in (1 << 22, 7 * B * NP * T):
        monkeypatch.setattr(blocks, "_SCORES", scores)
        out, lse, state = attend(q, k, v, rule)
        rows = lse.masked_fill(lse == -torch.inf, torch.inf)
        found.append([out, *gradients(grad, q, k, v, out, rows, rule, state)])
    for a, b in zip(*found, strict=True):
        assert (a - b).abs().max() < 1e-13
