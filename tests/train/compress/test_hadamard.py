"""`hadamard`: the rotation is orthogonal and its own inverse, and spreads outliers."""

from __future__ import annotations

import pytest
import torch

from mcc.core.errors import UsageError
from mcc.train.compress.codecs.hadamard import rotated
from mcc.train.compress.spec import parse
from tests.train.compress.streams import make, normal, through


@pytest.mark.parametrize("block", [1, 2, 4, 64])
def test_rotation_is_the_hadamard_matrix(block):
    """Sylvester's: entry (i, j) is the parity of the bits that i and j share."""
    parity = torch.tensor([[(-1.0) ** (i & j).bit_count() for j in range(block)] for i in range(block)])
    x = normal(3, 2 * block)
    wanted = (x.view(-1, block) @ parity / block**0.5).view(x.shape)
    torch.testing.assert_close(rotated(x, block), wanted)
    torch.testing.assert_close(rotated(rotated(x, block), block), x)


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("shape", [(6, 64), (2, 5, 50), (3, 7)])
def test_error_is_within_its_bound_in_every_block(bits, shape):
    """|x - y|^2 <= B (1.01 max|z|)^2 / 4**b, and max|z| <= |x|."""
    x = normal(*shape, seed=7) * normal(*shape, seed=8).exp()
    codec = make(f"hadamard:bits={bits},block=32", shape)
    y = through(f"hadamard:bits={bits},block=32", x)
    short = -shape[-1] % codec.block

    def blocks(values):
        return torch.nn.functional.pad(values, (0, short)).reshape(-1, codec.block)

    z = rotated(blocks(x * codec.signs[: shape[-1]]), codec.block)
    bound = codec.block * (1.01 * z.abs().amax(1)) ** 2 / 4**bits
    assert (blocks(x - y).square().sum(1) <= bound * (1 + 1e-5)).all()
    assert (z.abs().amax(1) <= blocks(x).norm(dim=1) * (1 + 1e-5)).all()


def test_an_outlier_costs_its_block_less_than_without_rotation():
    x = normal(8, 128)
    x[:, 5] = 60.0
    rotating, plain = (
        (through(text, x) - x)[:, :5].square().mean()
        for text in ("hadamard:bits=4,block=128", "quantize:bits=4,scale=block,block=128")
    )
    assert rotating < plain / 10


def test_bytes_are_those_of_whole_blocks():
    assert make("hadamard:bits=4,block=32", (3, 64)).payload_bytes == 3 * (2 * 2 + 32)
    assert make("hadamard:bits=4,block=32", (3, 50)).payload_bytes == 3 * (2 * 2 + 32)
    assert make("hadamard:bits=2,block=128", (3, 50)).payload_bytes == 3 * (2 + 16)  # blocks of 64


def test_streams_have_their_own_signs():
    one, other = make("hadamard", (2, 64)), make("hadamard", (2, 64), key="other")
    assert not torch.equal(one.signs, other.signs) and set(one.signs.tolist()) == {-1.0, 1.0}


@pytest.mark.parametrize("text", ["hadamard:bits=8", "hadamard:bits=1", "hadamard:block=96", "hadamard:block=1"])
def test_bad_options_are_refused(text):
    with pytest.raises(UsageError, match="hadamard"):
        parse(f"pp.forward={text}")
