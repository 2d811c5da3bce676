"""Ring attention over coded keys and values: every rank computes with what they decode to, forward and backward."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from mcc.core.errors import UsageError
from mcc.train.compress.codec import Context, TensorSpec, nbytes
from mcc.train.compress.collective import Collective
from mcc.train.compress.spec import parse
from mcc.train.compress.wire import Wire
from mcc.train.parallel.keys_values import Coders, Coding
from mcc.train.parallel.ring import Ring
from mcc.train.parallel.tokens import Dealt
from tests.ranks import run_ranks

B, HEADS, GROUPS, TOKENS, HD = 2, 4, 2, 24, 8


def _both(text: str, padded: bool):
    """Output and gradients of this rank's tokens: by the ring, and of attention over the decoded blocks; bytes sent."""
    size, rank = dist.get_world_size(), dist.get_rank()
    wire, dealt = Wire(), Dealt(size, rank, True)
    keys, grads = (Collective(dist.group.WORLD, size, rank, wire, site) for site in ("cp.kv", "cp.grad"))
    ring = Ring(keys=keys, grads=grads, dealt=dealt)
    generator = torch.Generator().manual_seed(5)
    whole = [
        torch.randn(B, n, TOKENS, HD, generator=generator, dtype=torch.float64) for n in (HEADS, GROUPS, GROUPS, HEADS)
    ]
    seen = torch.rand(B, TOKENS, generator=generator) < 0.7 if padded else torch.ones(B, TOKENS, dtype=torch.bool)
    q, k, v, grad = (dealt.own(x, 2) for x in whole)
    q, k, v = (x.requires_grad_() for x in (q, k, v))
    context = Context(step=3)
    coding = Coding(Coders(parse(text)), "layers.0", context)
    out = ring.attend(q, k, v, True, dealt.own(seen) if padded else None, coding=coding)
    found = [out.detach(), *torch.autograd.grad(out, (q, k, v), grad)]

    spec = TensorSpec(tuple(k.shape), k.dtype)
    codecs = coding.pair(spec, 0)
    decoded = []
    for codec, x in zip(codecs, whole[1:3], strict=True):
        seen_x = torch.empty_like(x)
        for other in range(size):
            theirs = Dealt(size, other, True)
            seen_x[:, :, theirs.positions(TOKENS // size)] = codec.decode(
                codec.encode(theirs.own(x, 2), context), context
            )
        decoded.append(seen_x.requires_grad_())
    query = whole[0].clone().requires_grad_()
    mask = torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril() & seen[:, None, None, :]
    scores = query @ decoded[0].repeat_interleave(HEADS // GROUPS, 1).mT / HD**0.5
    weights = scores.masked_fill(~mask, -torch.inf).softmax(-1).nan_to_num()
    wanted = weights @ decoded[1].repeat_interleave(HEADS // GROUPS, 1)
    if not padded:
        plain = F.scaled_dot_product_attention(*whole[:3], is_causal=True, enable_gqa=True)
        assert (wanted - plain).abs().max() > 1e-3  # the codec is no identity
    gradients = torch.autograd.grad(wanted, (query, *decoded), whole[3])
    a_message = sum(nbytes(codec.payload(context)) for codec in codecs) + (seen.numel() // size if padded else 0)
    return found, [dealt.own(x.detach(), 2) for x in (wanted, *gradients)], wire.take()["cp.kv"], a_message


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("text", ["cp.kv=quantize:bits=3,scale=tensor", "cp.kv=powersgd:rank=4,warm_start=off"])
def test_every_rank_attends_to_the_decoded_blocks(text, padded):
    size = 3
    for found, wanted, sent, message in run_ranks(_both, size, text, padded):
        for name, a, b in zip(("out", "dq", "dk", "dv"), found, wanted, strict=True):
            # powersgd's own matrix products are float32's, whose bits depend on how memory is aligned.
            assert (a - b).abs().max() < (1e-12 if "quantize" in text else 1e-4), name
        assert sent == 2 * (size - 1) * message  # once forward, once backward


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("cp.kv=powersgd:rank=4", "powersgd would remember what it sent before"),
        ("cp.kv=quantize:bits=4,feedback=on", "feedback adds what was lost of other tensors"),
    ],
)
def test_codecs_with_memory_are_refused(text, why):
    with pytest.raises(UsageError, match=why):
        parse(text)
