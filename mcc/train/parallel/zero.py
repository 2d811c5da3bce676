"""ZeRO stage 1 (Rajbhandari et al., arXiv 1910.02054, section 5.1): each replica keeps the optimizer's state of its
own rows of every parameter, updates them, and gives them to the others.

N replicas   R rows (dim 0) of a parameter here

Gradients go to the rows' owners in a reduce-scatter, parameters come back in an all-gather: together as many bytes as
the all-reduce that they replace. The terms of a gradient are added in order of rank.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from mcc.train.compress.collective import Collective
from mcc.train.parallel.gradients import gradient

_BUCKET = 1 << 24  # elements that travel together; bounds the memory beside the gradients


class Zero:
    """The rows of every parameter that this replica owns.

    Args:
        parameters: this rank's, by name; their storage stays where it is from now on.
        gradients: the group of the replicas, for the reduce-scatter.
        updates: the same group, for the all-gather.

    Attributes:
        owned: views of the owned rows, by name: what the optimizer works on. Parameters with fewer rows than there
            are replicas have no rows on some.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], gradients: Collective, updates: Collective) -> None:
        self.parameters, self.gradients, self.updates = parameters, gradients, updates
        self.bounds = {name: dealt(parameters[name].shape[0], gradients.size) for name in sorted(parameters)}
        self.owned: dict[str, nn.Parameter] = {}
        for name in self.bounds:
            first, last = self.rows(name)
            if last > first:
                self.owned[name] = nn.Parameter(parameters[name].data[first:last])

    def rows(self, name: str, replica: int | None = None) -> tuple[int, int]:
        """(first, last + 1) of the rows of a parameter that this replica, or another, owns."""
        place = self.gradients.rank if replica is None else replica
        return self.bounds[name][place], self.bounds[name][place + 1]

    @torch.no_grad()
    def reduce(self, names: Iterable[str]) -> None:
        """Give the owned rows of `names` the mean over the replicas of their gradients, whose memory is freed."""
        size = self.gradients.size
        for bucket in self._buckets(names):
            pieces = [self._pack(bucket, place, gradients=True) for place in range(size)]
            for name in bucket:
                self.parameters[name].grad = None
            mean = self.gradients.scatter_sum(pieces).div_(size)
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
    def gather(self) -> None:
        """Give every replica the rows that the others have updated. The same bits on each."""
        for bucket in self._buckets(self.bounds):
            messages = self.updates.gather(self._pack(bucket, self.updates.rank, gradients=False))
            for place, message in enumerate(messages):
                if place != self.updates.rank:
                    for name, piece in self._unpack(bucket, place, message):
                        first, last = self.rows(name, place)
                        self.parameters[name].data[first:last].copy_(piece)

    def _buckets(self, names: Iterable[str]) -> Iterator[list[str]]:
        bucket: list[str] = []
        elements = 0
        for name in sorted(names):
            count = self.parameters[name].numel()
            if bucket and elements + count > _BUCKET:
                yield bucket
                bucket, elements = [], 0
            bucket.append(name)
            elements += count
        if bucket:
            yield bucket

    def _pack(self, bucket: list[str], place: int, gradients: bool) -> Tensor:
        """A replica's rows of all parameters of a bucket in one flat tensor, as long for every replica."""
        parts = []
        for name in bucket:
            first, last = self.rows(name, place)
            tensor = gradient(self.parameters[name]) if gradients else self.parameters[name].data
            parts.append(tensor[first:last].reshape(-1))
        flat = torch.cat(parts)
        longest = max(sum(self._count(name, other) for name in bucket) for other in range(self.gradients.size))
        return nn.functional.pad(flat, (0, longest - flat.numel()))

    def _unpack(self, bucket: list[str], place: int, flat: Tensor) -> Iterator[tuple[str, Tensor]]:
        start = 0
        for name in bucket:
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
