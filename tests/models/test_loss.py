"""The vocabulary-parallel cross-entropy on one rank and on two, against torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from mcc.models.base.axes import Axes
from mcc.models.base.loss import cross_entropy
from tests.models.live import LiveBytes
from tests.ranks import run_ranks


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_equals_torch(padding: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    vocab = 37
    logits = scale * torch.randn(2, 6, vocab + padding, generator=generator, dtype=torch.float64).float()
    targets = torch.randint(0, vocab, (2, 6), generator=generator)
    targets[0, 0], targets[0, 1] = 0, vocab - 1
    ours = logits.clone().requires_grad_()
    theirs = logits.clone().requires_grad_()
    before = ours.detach().clone()
    loss = cross_entropy(ours, targets, Axes(), vocab)
    expected = F.cross_entropy(theirs[..., :vocab].flatten(0, 1), targets.flatten(), reduction="none").view(2, 6)
    torch.testing.assert_close(loss, expected, atol=1e-4 if scale > 1 else 1e-6, rtol=1e-6)
    assert torch.equal(ours.detach(), before), "the logits were changed in place"

    weights = torch.rand(2, 6, generator=generator)  # a gradient that differs by position
    (loss * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=1e-5)
    assert not ours.grad[..., vocab:].any()


def test_padding_rows_take_no_probability() -> None:
    logits = torch.zeros(1, 8)
    logits[0, 5:] = 100.0
    loss = cross_entropy(logits, torch.tensor([2]), Axes(), vocab_size=5)
    assert loss.item() == pytest.approx(torch.log(torch.tensor(5.0)).item())


def test_keeps_the_dtype_of_the_gradient() -> None:
    logits = torch.randn(4, 9).bfloat16().requires_grad_()
    loss = cross_entropy(logits, torch.tensor([0, 1, 2, 8]), Axes(), 9)
    assert loss.dtype == torch.float32
    loss.sum().backward()
    assert logits.grad.dtype == torch.bfloat16
    expected = F.cross_entropy(logits.detach().float(), torch.tensor([0, 1, 2, 8]), reduction="none")
    torch.testing.assert_close(loss, expected)


class TwoRanks(Axes):
    """The statistics of two ranks joined by gloo."""

    size = 2

    def __init__(self) -> None:
        self.rank = dist.get_rank()

    def max_(self, x: torch.Tensor) -> torch.Tensor:
        dist.all_reduce(x, op=dist.ReduceOp.MAX)
        return x

    def sum_(self, x: torch.Tensor) -> torch.Tensor:
        dist.all_reduce(x)
        return x


def half_of(logits: torch.Tensor, targets: torch.Tensor, vocab: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(loss, gradient) of this rank's half of the logits."""
    axes = TwoRanks()
    half = logits.chunk(2, dim=-1)[axes.rank].clone().requires_grad_()
    loss = cross_entropy(half, targets, axes, vocab)
    loss.sum().backward()
    return loss.detach(), half.grad


@pytest.mark.parametrize("vocab", [12, 10, 4])  # no padding; some on the last rank; nothing else on the last rank
def test_two_ranks(vocab: int) -> None:
    """Every rank has the whole loss, and its slice of the whole gradient."""
    logits = torch.randn(5, 12, generator=torch.Generator().manual_seed(1))
    targets = torch.tensor([0, 3, 1, vocab - 1, 2])
    whole = logits.clone().requires_grad_()
    expected = F.cross_entropy(whole[:, :vocab], targets, reduction="none")
    expected.sum().backward()
    results = run_ranks(half_of, 2, logits, targets, vocab)
    for loss, _ in results:
        torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(torch.cat([grad for _, grad in results], dim=-1), whole.grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("padding", [0, 24])
def test_memory_is_the_logits_and_one_tensor_more(dtype: torch.dtype, padding: int) -> None:
    """What is kept for the backward pass becomes the gradient; padding does not copy the logits."""
    logits = torch.randn(64, 1000 + padding).to(dtype).requires_grad_()
    targets = torch.arange(64)
    whole = logits.numel() * 4  # statistics are float32's
    with LiveBytes() as live:
        loss = cross_entropy(logits, targets, Axes(), 1000).sum()
        assert live.peak <= 1.05 * whole
        loss.backward()
        assert live.peak <= 1.05 * whole + (logits.nbytes if dtype != torch.float32 else 0)
    expected = F.cross_entropy(logits.detach().float()[:, :1000].requires_grad_(), targets, reduction="sum")
    torch.testing.assert_close(loss, expected)


def test_a_second_backward_pass_is_refused() -> None:
    loss = cross_entropy(torch.randn(4, 9, requires_grad=True), torch.zeros(4, dtype=torch.long), Axes(), 9).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="backward pass runs once"):
        loss.backward()
