"""Ring self-attention over the context-parallel ranks: keys and values travel, queries stay.

    N ranks   B batch   np query heads   ng key/value heads   T tokens of each rank   hd channels of a head

Every rank holds the queries, keys and values of its own tokens (`Dealt`). In N - 1 hops each block of keys and values
visits every rank, which attends to it while the next one is on its way. Backward the blocks travel again, and behind
each its gradients, which every rank adds its part to and which come home at last.

Sources: Li et al., Sequence Parallelism (arXiv 2105.13120); Liu et al., Ring Attention with Blockwise Transformers
(arXiv 2310.01889). A rank sends 2(N-1) m elements forward and 4(N-1) m backward, m = B ng T hd.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mcc.train.compress import verify
from mcc.train.compress.collective import Collective
from mcc.train.parallel import blocks
from mcc.train.parallel.keys_values import Block, Coding, Form
from mcc.train.parallel.tokens import Dealt, Sight

_KEYS, _GRADS = 1, 2  # tags: the two kinds of message between the same pair of ranks
_MESSAGE = {"cpu": 1 << 19, "cuda": 8 << 20}  # a GPU's kernels want more heads at a time


class Transfer:
    """A message on its way to the next rank, and one from the rank before. Keep it until `wait`."""

    def __init__(self, message: Tensor, group: Collective, tag: int) -> None:
        self.group = group
        group.wire.add(group.site, message.nbytes)
        self.device, self.sent = message.device, group.host(message)
        self.received = torch.empty_like(self.sent, pin_memory=self.sent.is_pinned())
        ranks = dist.get_process_group_ranks(group.group)
        after, before = ranks[(group.rank + 1) % group.size], ranks[group.rank - 1]
        with group.span("send"):
            self.works = dist.batch_isend_irecv([
                dist.P2POp(dist.isend, self.sent, after, group.group, tag),
                dist.P2POp(dist.irecv, self.received, before, group.group, tag),
            ])  # fmt: skip

    def wait(self) -> Tensor:
        """What the rank before sent, of the same shape; ours has left."""
        with self.group.span("wait"):
            for work in self.works:
                work.wait()
        del self.sent
        return self.received.to(self.device)


@dataclass(frozen=True, kw_only=True)
class Ring:
    """The context-parallel ranks as a ring.

    Attributes:
        keys, grads: the ranks of the axis, counting what keys and values, and what their gradients send.
        dealt: this rank's tokens.
        message_bytes: heads are taken a few at a time, so that a message is about so large, if that is possible: what
            travels then takes little memory however long the sequence. None: what suits the device.
    """

    keys: Collective
    grads: Collective
    dealt: Dealt
    message_bytes: int | None = None

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        causal: bool,
        padding: Tensor | None = None,
        dropout: float = 0.0,
        coding: Coding | None = None,
    ) -> Tensor:
        """Softmax attention of this rank's queries over the keys of all ranks. Collective.

        Args:
            q: [B, np, T, hd]. k, v: [B, ng, T, hd]. Query head h reads key/value head h // (np / ng).
            causal: a token sees itself and those before it in the whole sequence.
            padding: [B, T] of bool, True where this rank has a key to be seen; None on all ranks: everywhere.
            dropout: probability that an attention weight is dropped, drawn by torch's current random state.
            coding: how keys and values are coded, or None; all ranks then compute with what they decode to.

        Returns:
            [B, np, T, hd]; zero where a query sees no key.
        """
        seed = int(torch.randint(1 << 62, ())) if dropout else 0
        out: Tensor = _Attention.apply(q, k, v, self, _Call(causal, padding, dropout, seed, coding))
        return out


@dataclass(frozen=True)
class _Call:
    causal: bool
    padding: Tensor | None
    dropout: float
    seed: int
    coding: Coding | None = None

    def rule(self, block: Block, sight: Sight, rank: int) -> blocks.Rule:
        """Who sees whom of a block's keys and this rank's queries."""
        _, _, padding = block.contents
        padding = None if padding is None else padding[:, sight.keys]
        return blocks.Rule(sight.causal, padding, self.dropout, _mix(self.seed, rank, block.source))


def _mix(seed: int, *numbers: int) -> int:
    text = f"{seed}/{'/'.join(map(str, numbers))}".encode()
    return zlib.crc32(text) << 32 | zlib.crc32(text[::-1])


def _rounds(own: Block, ring: Ring) -> Iterator[Block]:
    """The blocks of all ranks, this rank's first; while one is in use, the next is on its way."""
    block, size = own, ring.keys.size
    for hop in range(size):
        coming = Transfer(block.message, ring.keys, _KEYS) if hop < size - 1 else None
        yield block
        if coming is not None:
            block = Block(coming.wait(), own.form, (block.source - 1) % size)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, ring: Ring, call: _Call) -> Tensor:
        ctx.ring, ctx.call, ctx.states = ring, call, []
        q = q.contiguous()
        # Laid out by tokens, as the layer after it reads it: one tensor then serves both backward passes.
        out = torch.empty_like(q.transpose(1, 2), memory_format=torch.contiguous_format).transpose(1, 2)
        lse = torch.empty(q.shape[:3], dtype=_wide(q.dtype), device=q.device)
        saved = []
        for part, (heads, groups) in enumerate(_parts(q, k, ring)):
            form = Form.of(k[:, groups], call.padding, call.coding, part)
            own = Block(form.write(k[:, groups], v[:, groups], call.padding), form, ring.dealt.rank)
            saved.append(own.message)
            sums = _Sums(out[:, heads])
            seeded = replace(call, seed=_mix(call.seed, part))
            ctx.states.append(_forward(q[:, heads], own, ring, seeded, sums.wide[0], lse[:, heads]))
            sums.finish()
        lse.masked_fill_(lse == -torch.inf, torch.inf)  # backward exp(score - lse) is then 0
        # The packed blocks are kept rather than k and v, which are often slices of one larger tensor.
        ctx.shape = k.shape
        ctx.save_for_backward(q, out, lse, *saved)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, out, lse, *saved = ctx.saved_tensors
        ring, call = ctx.ring, ctx.call
        grad = grads[0].contiguous()
        dq = torch.zeros_like(q)
        dk, dv = (torch.zeros(ctx.shape, dtype=q.dtype, device=q.device) for _ in range(2))
        for part, (heads, groups) in enumerate(_parts(q, dk, ring)):
            form = Form.of(dk[:, groups], call.padding, call.coding, part)
            own = Block(saved[part], form, ring.dealt.rank)
            sums = _Sums(dq[:, heads], dk[:, groups], dv[:, groups])
            seeded = replace(call, seed=_mix(call.seed, part))
            mine = (grad[:, heads], q[:, heads], out[:, heads], lse[:, heads])
            _backward(*mine, own, ring, seeded, ctx.states[part], sums.wide)
            sums.finish()
        return dq, dk, dv, None, None


class _Sums:
    """Accumulators of narrow tensors: zeros in float32, or the tensors themselves where they are wide enough."""

    def __init__(self, *tensors: Tensor) -> None:
        self.tensors = tensors
        self.wide = [x if x.dtype == _wide(x.dtype) else torch.zeros_like(x, dtype=_wide(x.dtype)) for x in tensors]

    def finish(self) -> None:
        """Round the sums into the tensors."""
        for tensor, total in zip(self.tensors, self.wide, strict=True):
            if total is not tensor:
                tensor.copy_(total)


def _forward(q: Tensor, own: Block, ring: Ring, call: _Call, out: Tensor, lse: Tensor) -> list[blocks.State]:
    """Fill `out` and `lse` with those over all blocks; what each block's kernel wants to have backward."""
    states = []
    seen: dict[int, int] = {}  # hashes of keys and values, by the rank that they are from
    for block in _rounds(own, ring):
        if call.coding is not None and ring.keys.wire.verify:
            seen[block.source] = verify.hash_of(*block.contents[:2])
        sight = ring.dealt.sight(block.source, q.shape[2], call.causal)
        if sight is None:
            states.append(())
            continue
        rows, keys = _at(sight.queries), _at(sight.keys)
        k, v, _ = block.contents
        rule = call.rule(block, sight, ring.dealt.rank)
        found, found_lse, state = blocks.attend(q[rows], k[keys], v[keys], rule)
        states.append(state)
        if block is own:  # the first, and it has something for every query
            out.copy_(found)
            lse.copy_(found_lse)
        else:
            blocks.merge(out[rows], lse[rows], found, found_lse)
    if seen and call.coding is not None:
        hashes = [seen[source] for source in sorted(seen)]
        verify.check_hashes(ring.keys, hashes, q.device, call.coding.context)
    return states


def _backward(
    grad: Tensor,
    q: Tensor,
    out: Tensor,
    lse: Tensor,
    own: Block,
    ring: Ring,
    call: _Call,
    states: list[blocks.State],
    sums: list[Tensor],
) -> None:
    """Add to `sums` the gradients of the queries, and of this rank's keys and values from all ranks."""
    dq, *home = sums
    arriving: Transfer | None = None
    for block, state in zip(_rounds(own, ring), states, strict=True):
        sight = ring.dealt.sight(block.source, q.shape[2], call.causal)
        found: tuple[Tensor, ...] = ()
        if sight is not None:
            rows, keys = _at(sight.queries), _at(sight.keys)
            rule = call.rule(block, sight, ring.dealt.rank)
            k, v = (x[keys] for x in block.contents[:2])
            found = blocks.gradients(grad[rows], q[rows], k, v, out[rows], lse[rows].contiguous(), rule, state)
        if block is own:
            _add((dq, *home), sight, found)
            continue
        # What the ranks that this block visited before have found.
        if arriving is None:
            travelling = torch.zeros(2, *own.form.heads.shape, dtype=dq.dtype, device=q.device)
        else:
            travelling = arriving.wait()
        _add((dq, *travelling), sight, found)
        del found
        arriving = Transfer(travelling, ring.grads, _GRADS)
    if arriving is not None:
        for total, part in zip(home, arriving.wait(), strict=True):
            total += part


def _add(totals: tuple[Tensor, ...], sight: Sight | None, found: tuple[Tensor, ...]) -> None:
    """Add a block's gradients of queries, keys and values where they belong."""
    if sight is not None:
        for total, tokens, part in zip(totals, (sight.queries, sight.keys, sight.keys), found, strict=True):
            total[_at(tokens)] += part


def _at(tokens: slice) -> tuple[slice, ...]:
    return slice(None), slice(None), tokens


def _parts(q: Tensor, k: Tensor, ring: Ring) -> list[tuple[slice, slice]]:
    """Slices (of the query heads, of the key/value heads) to be taken one after the other."""
    ng, group = k.shape[1], q.shape[1] // k.shape[1]
    most = ring.message_bytes or _MESSAGE.get(k.device.type, 1 << 20)
    count = min(ng, max(1, -(-2 * k.numel() * k.element_size() // most)))
    edges = [ng * i // count for i in range(count + 1)]
    return [(slice(start * group, end * group), slice(start, end)) for start, end in itertools.pairwise(edges)]


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32
