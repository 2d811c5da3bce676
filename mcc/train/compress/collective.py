"""A process group that counts what it sends, and the compressed sum over it, whole or by its two halves."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from mcc.train.compress import host
from mcc.train.compress.codec import Codec, Context, TensorSpec, decode_message, pack, unpack
from mcc.train.compress.verify import check_alike, check_pieces
from mcc.train.compress.wire import Wire

if TYPE_CHECKING:
    from mcc.train.compress.spec import CodecSpec


class Collective:
    """`group`'s collectives, each counted in `wire` under `site`. A group of one rank sends nothing.

    A GPU's tensors go through pinned host memory where the group is gloo's: several ranks may share a GPU.
    """

    def __init__(self, group: dist.ProcessGroup | None, size: int, rank: int, wire: Wire, site: str) -> None:
        self.group, self.size, self.rank, self.wire, self.site = group, size, rank, wire, site

    def host(self, x: Tensor) -> Tensor:
        """x, or its copy in host memory where the group cannot carry it from where it is."""
        return host.carried(x, self.group)

    def span(self, kind: str) -> AbstractContextManager[Any]:
        """Record the block in the trace, if there is one, as work of `kind` at this site."""
        return self.wire.recorder.span(kind, what=self.site)

    def sum_(self, x: Tensor) -> Tensor:
        """The sum over ranks, in place. Every rank gets the same bits."""
        if self.size > 1:
            self.wire.add(self.site, 2 * (self.size - 1) / self.size * x.nbytes)
            self._all_reduce(x, dist.ReduceOp.SUM)
        return x

    def max_(self, x: Tensor) -> Tensor:
        """The maximum over ranks, in place."""
        if self.size > 1:
            self.wire.add(self.site, 2 * (self.size - 1) / self.size * x.nbytes)
            self._all_reduce(x, dist.ReduceOp.MAX)
        return x

    def _all_reduce(self, x: Tensor, op: dist.ReduceOp.RedOpType) -> None:
        with self.span("reduce"):
            here = self.host(x)
            dist.all_reduce(here, op=op, group=self.group)
            if here is not x:
                x.copy_(here)

    def sum_flat(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The sums of several tensors of one dtype in one all-reduce."""
        if not tensors:
            return []
        flat = self.sum_(torch.cat([x.reshape(-1) for x in tensors]))
        pieces = flat.split([x.numel() for x in tensors])
        return [piece.view(x.shape) for piece, x in zip(pieces, tensors, strict=True)]

    def gather(self, message: Tensor) -> list[Tensor]:
        """Every rank's message (uint8, equal lengths), in order of rank."""
        self.wire.add(self.site, (self.size - 1) * message.nbytes)
        here = self.host(message)
        messages = [torch.empty_like(here) for _ in range(self.size)]
        with self.span("reduce"):
            dist.all_gather(messages, here, group=self.group)
        return [found.to(message.device) for found in messages]

    def exchange(self, messages: Sequence[Tensor]) -> list[Tensor]:
        """All-to-all of equal-length messages: the i-th goes to rank i; returns what each rank sent here."""
        sent = self.host(torch.cat(list(messages)))
        received = torch.empty_like(sent)
        self.wire.add(self.site, (self.size - 1) / self.size * sent.nbytes)
        with self.span("reduce"):
            dist.all_to_all_single(received, sent, group=self.group)
        return list(received.to(messages[0].device).chunk(self.size))

    def scatter_sum(self, pieces: Sequence[Tensor]) -> Tensor:
        """The sum over ranks of this rank's piece: a reduce-scatter of `size` pieces of one shape.

        Where gloo carries it, the terms are added in order of rank, 16-bit ones in float32.
        """
        if self.size == 1:
            return pieces[0]
        if host.carrier(pieces[0].device.type, self.group) == "nccl":
            total = torch.empty_like(pieces[0], memory_format=torch.contiguous_format)
            self.wire.add(self.site, (self.size - 1) * total.nbytes)
            with self.span("reduce"):
                dist.reduce_scatter(total, [piece.contiguous() for piece in pieces], group=self.group)
            return total
        first, *rest = self.exchange([piece.reshape(-1) for piece in pieces])
        total = first.to(torch.promote_types(first.dtype, torch.float32))
        for term in rest:
            total += term
        return total.to(first.dtype).view(pieces[0].shape)


class CompressedScatter:
    """A compressed reduce-scatter of one stream: each rank sums its piece from all ranks, in order of rank."""

    def __init__(self, codec: CodecSpec, spec: TensorSpec, key: str, group: Collective) -> None:
        self.group = group
        self.slices = [codec.make(spec, f"{key}/slice{i}", group.rank) for i in range(group.size)]

    def __call__(self, pieces: Sequence[Tensor], context: Context) -> Tensor:
        """The sum over ranks of this rank's piece[spec.shape], of `group.size` pieces."""
        with self.group.span("encode"):
            sent = [pack(codec.encode(piece, context)) for codec, piece in zip(self.slices, pieces, strict=True)]
        received = self.group.exchange(sent)
        if self.group.wire.verify:
            mine = [decode_message(codec, message, context) for codec, message in zip(self.slices, sent, strict=True)]
            theirs = [decode_message(self.slices[self.group.rank], message, context) for message in received]
            check_pieces(self.group, mine, theirs, context)
        with self.group.span("decode"):
            return _sum(self.slices[self.group.rank], received, context)

    def codecs(self) -> dict[str, Codec]:
        """The codecs in use, by name, for their state."""
        return {f"slice{i}": codec for i, codec in enumerate(self.slices)}


class CompressedGather:
    """A compressed all-gather of one stream: every rank gets the same bits of every rank's piece."""

    def __init__(self, codec: CodecSpec, spec: TensorSpec, key: str, group: Collective) -> None:
        self.group = group
        # One name on every rank: what is drawn by it must be the same to whoever decodes.
        self.total = codec.make(spec, f"{key}/total", group.rank)

    def __call__(self, mine: Tensor, context: Context) -> list[Tensor]:
        """The pieces[spec.shape] of all ranks, in order of rank."""
        with self.group.span("encode"):
            message = pack(self.total.encode(mine, context))
        messages = self.group.gather(message)
        with self.group.span("decode"):
            pieces = [decode_message(self.total, message, context) for message in messages]
        if self.group.wire.verify:
            check_alike(self.group, pieces, context)
        return pieces

    def codecs(self) -> dict[str, Codec]:
        """The codecs in use, by name, for their state."""
        return {"total": self.total}


class CompressedSum:
    """The sum over a group's ranks of one stream of tensors, compressed; every rank gets the same bits.

    A codec that adds payloads does so (`Codec.all_reduce`). Otherwise two ranks gather each other's payload; more go in
    two shots: each rank sums one slice of rows from all (all-to-all), then its slice goes to all (all-gather), which
    sends 2(N-1)/N payloads rather than N-1. Decoded in order of rank, so that replicas stay bit-identical. What more
    than two send through an exact codec is summed as without one.
    """

    def __init__(self, codec: CodecSpec, spec: TensorSpec, key: str, group: Collective) -> None:
        self.codec, self.spec, self.key, self.group = codec, spec, key, group
        self.plain = codec.sums_plainly(group.size)
        self.shots: tuple[CompressedScatter, CompressedGather] | None = None
        if group.size > 2 and not codec.adds_payloads and not self.plain:
            width = spec.shape[-1]
            self.rows = -(-(torch.Size(spec.shape).numel() // width) // group.size)
            piece = TensorSpec((self.rows, width), spec.dtype)
            self.shots = (CompressedScatter(codec, piece, key, group), CompressedGather(codec, piece, key, group))

    @cached_property
    def whole(self) -> Codec:
        """The codec of the tensor as it is, where there are no slices."""
        return self.codec.make(self.spec, self.key, self.group.rank)

    def __call__(self, x: Tensor, context: Context) -> Tensor:
        """The sum over ranks of x[spec.shape]."""
        if self.group.size == 1:
            return x
        if self.plain:
            return self.group.sum_(x.clone())
        if self.codec.adds_payloads:
            with self.group.span("encode"):  # the sums within are spans of their own
                sums = type(self.whole).all_reduce([self.whole], [x], self.group, context)
            assert sums is not None
            if self.group.wire.verify:
                check_alike(self.group, sums, context)
            return sums[0]
        if self.shots is None:
            with self.group.span("encode"):
                message = pack(self.whole.encode(x, context))
            messages = self.group.gather(message)
            with self.group.span("decode"):
                total = _sum(self.whole, messages, context)
            if self.group.wire.verify:
                check_alike(self.group, [total], context)
            return total
        scatter, gather = self.shots
        matrix = x.reshape(-1, x.shape[-1])
        short = self.rows * self.group.size - matrix.shape[0]
        if short:
            matrix = torch.cat([matrix, matrix.new_zeros(short, matrix.shape[1])])
        mine = scatter(matrix.split(self.rows), context)
        return torch.cat(gather(mine, context))[: matrix.shape[0] - short].view(x.shape)

    def codecs(self) -> dict[str, Codec]:
        """The codecs in use, by name, for their state."""
        if self.plain:
            return {}
        if self.shots is None:
            return {"whole": self.whole}
        return {name: codec for shot in self.shots for name, codec in shot.codecs().items()}


def _sum(codec: Codec, messages: Sequence[Tensor], context: Context) -> Tensor:
    first = decode_message(codec, messages[0], context)
    total = first.to(torch.promote_types(first.dtype, torch.float32), copy=True)  # as uncompressed terms are added
    specs = codec.payload(context)
    for message in messages[1:]:
        codec.add_decoded(unpack(message, specs), context, total)
    return total.to(first.dtype)
