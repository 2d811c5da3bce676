"""`powersgd`: torch's own hook, state for state; a matrix a sample; evaluation without what is remembered."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook

from mcc.core.errors import UsageError
from mcc.train.compress import kernels
from mcc.train.compress.codec import Context, TensorSpec
from mcc.train.compress.codecs.powersgd import PowerSGD
from mcc.train.compress.collective import Collective
from mcc.train.compress.feedback import Feedback
from mcc.train.compress.spec import parse
from mcc.train.compress.wire import Wire
from tests.ranks import run_ranks
from tests.train.compress.streams import make, normal, through

SHAPES = [(24, 16), (20, 12)]


class _Bucket:
    """What torch's hook asks of a bucket of gradients."""

    def __init__(self, grads):
        self.flat = torch.cat([grad.reshape(-1) for grad in grads])
        pieces = self.flat.split([grad.numel() for grad in grads])
        self.views = [piece.view(grad.shape) for piece, grad in zip(pieces, grads, strict=True)]

    def buffer(self):
        return self.flat

    def gradients(self):
        return self.views

    def index(self):
        return 0

    def is_last(self):
        return True


def _mixed():
    """Low-rank sums where a rank has no numba, and what they should be: of a matrix of that rank there is no error."""
    rank = dist.get_rank()
    if rank == 1:
        kernels.available = lambda device: None
    kernels._LEAST_THIN = 0
    codec = make("dp.grad=powersgd:rank=3", (48, 40))
    group = Collective(dist.group.WORLD, dist.get_world_size(), rank, Wire(), "dp.grad")
    x = normal(48, 3) @ normal(3, 40, seed=1)
    (total,) = PowerSGD.all_reduce([codec], [x], group, Context())
    return (total - 2 * x).norm() / (2 * x).norm()


def test_ranks_with_and_without_kernels_can_be_added_up():
    """Orthonormal rows are those of Cholesky and of QR with the signs of its diagonal: the same but for rounding."""
    assert max(run_ranks(_mixed, 2)) < 1e-4


def _both(rank_of_matrices, kernel):
    """Ours and torch's after every step: means, errors, and Q. `kernel`: however small matrices are."""
    if kernel:
        kernels._LEAST_THIN = 0
        assert kernels.orthonormal(normal(4, 24)) is not None
    size, rank = dist.get_world_size(), dist.get_rank()
    group = Collective(dist.group.WORLD, size, rank, Wire(), "dp.grad")
    text = f"dp.grad=powersgd:rank={rank_of_matrices},feedback=on"
    ours = [make(text, shape, key=str(shape)) for shape in SHAPES]
    theirs = PowerSGDState(None, rank_of_matrices, start_powerSGD_iter=2, min_compression_rate=1, random_seed=7)
    theirs.iter = 2  # no dense steps first
    torch.manual_seed(np.random.RandomState(7).randint(1_000_000_000))  # torch's start, so that ours is the same
    for codec, (_, m) in zip(ours, SHAPES, strict=True):
        codec.inner.load_state_dict({"q": torch.randn(1, m, rank_of_matrices)[0]})
    found = []
    for step in range(6):
        grads = [normal(*shape, seed=100 * step + 10 * rank + shape[0]) for shape in SHAPES]
        bucket = _Bucket(grads)
        powerSGD_hook(theirs, bucket).wait()
        sums = Feedback.all_reduce(ours, grads, group, Context(step=step))
        mine = (
            [total / size for total in sums],
            [c.error for c in ours],
            [c.inner.state_dict()["q"] / size for c in ours],
        )
        errors = _Bucket(grads)
        errors.flat.copy_(theirs.error_dict[0])
        qs = theirs.q_memory_dict[0].split([m * rank_of_matrices for _, m in SHAPES])
        qs = [q.view(m, rank_of_matrices).clone() for q, (_, m) in zip(qs, SHAPES, strict=True)]
        found.append((mine, (bucket.views, errors.views, qs)))
    return found


@pytest.mark.parametrize("kernel", [False, True])
@pytest.mark.parametrize("low_rank", [2, 4])  # torch has Gram-Schmidt up to 2, and QR beyond
def test_data_parallel_mathematics_is_that_of_torch(low_rank, kernel):
    """Means and errors are the same after every step, and so is Q but for the sign of a column: P's columns are the
    same up to sign, since Q R^-1 for an upper triangular R has the columns of Q span by span, and Q = M^T P."""
    if kernel:
        pytest.importorskip("numba", reason="the CPU's kernels are compiled by numba")
    for steps in run_ranks(_both, 2, low_rank, kernel):
        for (means, errors, qs), (their_means, their_errors, their_qs) in steps:
            for ours, theirs in zip([*means, *errors], [*their_means, *their_errors], strict=True):
                torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=0)
            for ours, theirs in zip(qs, their_qs, strict=True):
                signs = (ours * theirs).sum(0).sign()
                torch.testing.assert_close(ours * signs, theirs, atol=2e-3, rtol=0)


def test_a_matrix_a_sample():
    """Every sample has its own factors: three samples of rank 2 come through at rank 2, as one matrix they do not."""
    x = torch.stack([normal(9, 2, seed=s) @ normal(2, 12, seed=s + 9) for s in range(3)])
    torch.testing.assert_close(through("powersgd:rank=2,per=sample", x), x, atol=1e-4, rtol=1e-4)
    assert (through("powersgd:rank=2", x) - x).norm() > 0.1 * x.norm()
    assert make("powersgd:rank=2,per=sample", (3, 9, 12)).payload_bytes == 4 * 3 * 2 * (9 + 12)


def test_samples_warm_up_apart():
    """A slot of the batch goes on as a codec of that matrix alone would."""
    together, alone = make("powersgd:rank=2,per=sample", (3, 9, 12)), make("powersgd:rank=2", (9, 12))
    alone.load_state_dict({"q": together.state_dict()["q"][1]})
    for step in range(4):
        x = normal(3, 9, 12, seed=step)
        context = Context(step=step)
        seen = together.decode(together.encode(x, context), context)[1]
        torch.testing.assert_close(seen, alone.decode(alone.encode(x[1], context), context), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("rows", [9, 4096])  # above some size a kernel finds the rows, if there is one
def test_a_slot_of_zeros_begins_again(rows):
    codec = make("powersgd:rank=2,per=sample", (2, rows, 12))
    x = torch.stack([normal(rows, 12), torch.zeros(rows, 12)])
    codec.encode(x, Context())
    x = normal(2, rows, 12, seed=1)
    seen = codec.decode(codec.encode(x, Context(step=1)), Context(step=1))
    assert seen[1].norm() > 0.1 * x[1].norm()


@pytest.mark.parametrize("rows", [9, 4096])
def test_a_matrix_of_zeros_begins_again(rows):
    """With the first step's factor, to the bit."""
    once, anew = make("powersgd:rank=2", (rows, 12)), make("powersgd:rank=2", (rows, 12))
    once.encode(torch.zeros(rows, 12), Context())
    x = normal(rows, 12, seed=1)
    for seen, expected in zip(once.encode(x, Context(step=1)), anew.encode(x, Context()), strict=True):
        assert torch.equal(seen, expected)


def test_error_is_never_above_the_matrix():
    """P P^T M is a projection: |M - P P^T M|^2 = |M|^2 - |P^T M|^2."""
    codec = make("powersgd:rank=3", (20, 12))
    for step in range(5):
        x = normal(20, 12, seed=step)
        p, q = codec.encode(x, Context(step=step))
        lost = (codec.decode((p, q), Context(step=step)) - x).square().sum()
        torch.testing.assert_close(lost, x.square().sum() - q.square().sum(), rtol=1e-4, atol=0)
        assert lost < x.square().sum()


def _evaluated():
    size, rank = dist.get_world_size(), dist.get_rank()
    group = Collective(dist.group.WORLD, size, rank, Wire(), "tp.forward")
    codec = parse("tp.forward=powersgd:rank=3,feedback=on").make(TensorSpec((20, 12), torch.float32), "layer")
    x = normal(20, 12, seed=rank)
    before = Feedback.all_reduce([codec], [x], group, Context(training=False))
    for step in range(3):
        Feedback.all_reduce([codec], [normal(20, 12, seed=9 + step + rank)], group, Context(step=step))
    state = {name: value.clone() for name, value in codec.state_dict().items()}
    after = Feedback.all_reduce([codec], [x], group, Context(step=5, training=False))
    assert torch.equal(before[0], after[0])
    assert all(torch.equal(value, state[name]) for name, value in codec.state_dict().items())
    return before[0]


def test_sums_in_evaluation_use_no_memory_and_are_nearly_the_best():
    """A few steps at once stand for the warm start: within 5% of the truncated SVD of the sum."""
    one, two = run_ranks(_evaluated, 2)
    assert torch.equal(one, two)
    total = normal(20, 12, seed=0) + normal(20, 12, seed=1)
    best = torch.linalg.svdvals(total)[3:].norm()
    assert best <= (one - total).norm() * (1 + 1e-5) and (one - total).norm() <= 1.05 * best


@pytest.mark.parametrize("site", ["dp.grad", "embedding"])
def test_parameters_have_no_samples(site):
    with pytest.raises(UsageError, match="no one sample"):
        parse(f"{site}=powersgd:per=sample")
    assert PowerSGD.refusal("tp.forward", PowerSGD.Options(per="sample")) is None
