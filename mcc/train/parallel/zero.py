"""ZeRO stage 1 (Rajbhandari et al., arXiv 1910.02054, section 5.1): each replica keeps the optimizer's state of its
own rows of every parameter, updates them, and gives them to the others.

N replicas   R rows (dim 0) of a parameter here

Gradients go to the rows' owners in a reduce-scatter, parameters come back in an all-gather: together as many bytes as
the all-reduce that they replace. The terms of a gradient are added in order of rank. Either way may be compressed, see
`mcc.train.parallel.flat`: gradients as in ZeRO++ (arXiv 2306.10209, section 3.3), weights as there (section 3.1) or as
what they differ by from those that the replicas hold (SDP4Bit, arXiv 2410.15526, section 3.1). Owners then keep exact
masters of their rows; all replicas, the owner too, compute with what was decoded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mcc.train.compress.codec import Codec
from mcc.train.compress.spec import CodecSpec
from mcc.train.parallel.flat import FlatGather, FlatScatter
from mcc.train.parallel.gradients import gradient
from mcc.train.parallel.mesh import Mesh
from mcc.train.parallel.tensor import Clock

_BUCKET = 1 << 24  # elements that travel together; bounds the memory beside the gradients


@dataclass(frozen=True)
class _Bucket:
    """Parameters that travel together. `longest`: elements of its piece, as many for every replica."""

    key: str
    names: Sequence[str]
    longest: int


class Zero:
    """The rows of every parameter that this replica owns.

    Args:
        parameters: this rank's, by name; their storage stays where it is from now on.
        mesh: this rank's place.
        compress: the codec of each site; those of `zero.grads` and `zero.weights` are used here.
        clock: the engine's.
        kinds: a word for parameters that must not be coded beside others, by name; see `flat.kinds`.
        elsewhere: parameters whose gradients are not reduced here.

    Attributes:
        owned: the owned rows, by name: what the optimizer works on. Views, or copies where others compute with what a
            codec left of them. Parameters with fewer rows than there are replicas have no rows on some.
        apart: whether they are copies.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        mesh: Mesh,
        compress: Mapping[str, CodecSpec],
        clock: Clock,
        kinds: Mapping[str, str],
        elsewhere: Iterable[str] = (),
    ) -> None:
        self.parameters, self.kinds, self.clock = parameters, kinds, clock
        self.gradients, self.updates = mesh.replicas_sum("zero.grads"), mesh.replicas_sum("zero.weights")
        self.bounds = {name: dealt(parameters[name].shape[0], self.gradients.size) for name in sorted(parameters)}
        self.spec = compress.get("zero.weights")
        self.apart = self.spec is not None
        self.owned: dict[str, nn.Parameter] = {}
        for name in self.bounds:
            first, last = self.rows(name)
            if last > first:
                own = parameters[name].data[first:last]
                self.owned[name] = nn.Parameter(own.clone() if self.apart else own)
        self._reduced = list(self._buckets(set(self.bounds) - set(elsewhere)))
        self._gathered = list(self._buckets(self.bounds))
        self.scatter = FlatScatter(compress.get("zero.grads"), self.gradients, clock)
        for bucket in self._reduced:
            self.scatter.add(bucket.key, bucket.longest)
        self.spread = FlatGather(self.spec, self.updates, clock)
        for bucket in self._gathered:
            self.spread.add(bucket.key, bucket.longest)

    def rows(self, name: str, replica: int | None = None) -> tuple[int, int]:
        """(first, last + 1) of the rows of a parameter that this replica, or another, owns."""
        place = self.gradients.rank if replica is None else replica
        return self.bounds[name][place], self.bounds[name][place + 1]

    @torch.no_grad()
    def reduce(self) -> None:
        """Give the owned rows the mean over the replicas of their gradients, whose memory is freed. Not `elsewhere`."""
        size = self.gradients.size
        for bucket in self._reduced:
            grads = {name: gradient(self.parameters[name]) for name in bucket.names}
            pieces = [self._pack(bucket, grads, place) for place in range(size)]
            del grads
            for name in bucket.names:
                self.parameters[name].grad = None
            mean = self.scatter(bucket.key, pieces).div_(size)
            for name, piece in self._unpack(bucket, self.gradients.rank, mean):
                self.owned[name].grad = piece

    @torch.no_grad()
    def take(self) -> None:
        """Give the owned rows that have no gradient yet theirs from the whole gradients, which are complete."""
        for name, owned in self.owned.items():
            if owned.grad is None:
                first, last = self.rows(name)
                owned.grad = gradient(self.parameters[name])[first:last]

    @torch.no_grad()
    def gather(self, exact: bool = False) -> None:
        """Give every replica the rows that the others have updated, as the codec leaves them unless `exact`. The same
        bits on each."""
        here = self.updates.rank
        coded = not exact and self.clock.active(self.spec)
        difference = coded and self.spec is not None and self.spec.of == "difference"
        for bucket in self._gathered:
            mine = self._pack(bucket, self.owned)
            if difference:
                held = {name: p.data for name, p in self.parameters.items()}
                mine -= self._pack(bucket, held, here)
            for place, rows in enumerate(self.spread(bucket.key, mine, dense=not coded)):
                if place == here and not self.apart:
                    continue
                for name, piece in self._unpack(bucket, place, rows):
                    first, last = self.rows(name, place)
                    target = self.parameters[name].data[first:last]
                    target.add_(piece) if difference else target.copy_(piece)

    @torch.no_grad()
    def adopt(self) -> None:
        """Take the parameters for exact: they were loaded."""
        if self.apart:
            for name, owned in self.owned.items():
                first, last = self.rows(name)
                owned.copy_(self.parameters[name][first:last])

    @contextmanager
    def exact(self) -> Iterator[None]:
        """Within the block the parameters are what their owners have: as the exported model's will be. Collective."""
        if not self.apart:
            yield
            return
        held = {name: parameter.data.clone() for name, parameter in self.parameters.items()}
        self.gather(exact=True)
        try:
            yield
        finally:
            for name, parameter in self.parameters.items():
                parameter.data.copy_(held[name])

    def codecs(self) -> dict[str, Codec]:
        """Every codec in use, by site and key."""
        sites = {"zero.grads": self.scatter.codecs(), "zero.weights": self.spread.codecs()}
        return {f"{site}/{key}": codec for site, found in sites.items() for key, codec in found.items()}

    def _buckets(self, names: Iterable[str]) -> Iterator[_Bucket]:
        """What travels together of `names`: parameters of one kind."""
        bucket: list[str] = []
        elements = count = 0
        for kind, name in sorted((self.kinds.get(name, ""), name) for name in names):
            size = self.parameters[name].numel()
            if bucket and (elements + size > _BUCKET or kind != self.kinds.get(bucket[0], "")):
                yield _Bucket(self._key(bucket[0], count), bucket, self._longest(bucket))
                count = count + 1 if kind == self.kinds.get(bucket[0], "") else 0
                bucket, elements = [], 0
            bucket.append(name)
            elements += size
        if bucket:
            yield _Bucket(self._key(bucket[0], count), bucket, self._longest(bucket))

    def _key(self, name: str, count: int) -> str:
        """Of the count-th bucket of a kind: the same wherever its parameters are, whatever is beside them."""
        return f"{self.kinds.get(name, '') or 'bucket'}{count}"

    def _longest(self, names: Sequence[str]) -> int:
        return max(sum(self._count(name, place) for name in names) for place in range(self.gradients.size))

    def _pack(self, bucket: _Bucket, tensors: Mapping[str, Tensor], place: int | None = None) -> Tensor:
        """Rows of all parameters of a bucket in one flat tensor: a replica's rows of whole `tensors`, or all that
        there are."""
        parts = []
        for name in bucket.names:
            if place is None:
                parts += [tensors[name].data.reshape(-1)] if name in tensors else []
            else:
                first, last = self.rows(name, place)
                parts.append(tensors[name][first:last].reshape(-1))
        flat = torch.cat(parts) if parts else self.parameters[bucket.names[0]].new_zeros(0)
        return nn.functional.pad(flat, (0, bucket.longest - flat.numel()))

    def _unpack(self, bucket: _Bucket, place: int, flat: Tensor) -> Iterator[tuple[str, Tensor]]:
        start = 0
        for name in bucket.names:
            count, (first, last) = self._count(name, place), self.rows(name, place)
            if count:
                yield name, flat[start : start + count].view(last - first, *self.parameters[name].shape[1:])
            start += count

    def _count(self, name: str, place: int) -> int:
        first, last = self.rows(name, place)
        parameter = self.parameters[name]
        return (last - first) * (parameter.numel() // parameter.shape[0])


def dealt(rows: int, replicas: int) -> list[int]:
    """Where each replica's rows begin, and the end.

    >>> dealt(10, 4)
    [0, 2, 5, 7, 10]
    """
    return [place * rows // replicas for place in range(replicas + 1)]
