"""Flat pieces of many parameters, scattered and gathered over the replicas through a codec: rows of 1024 values.

What must be the same on several ranks must be coded alike there, and not beside what is not: parameters that all
tensor-parallel ranks hold whole, and both copies of a tied embedding, go in pieces of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Generic, TypeVar

from torch import Tensor

from mcc.models.base.family import Family
from mcc.train.compress.codec import Codec
from mcc.train.compress.collective import Collective, CompressedGather, CompressedScatter
from mcc.train.compress.spec import CodecSpec
from mcc.train.parallel.gradients import TIED, as_rows, rows_spec
from mcc.train.parallel.tensor import Clock


def kinds(names: Iterable[str], family: Family, tp: int, copies: bool) -> dict[str, str]:
    """A word for parameters that are coded apart from all others, by name: those that all of `tp` ranks hold whole,
    and the tied embedding where two ranks hold `copies`."""
    alike = {name: "alike" for name in names if tp > 1 and family.row(name).tp_dim is None}
    return alike | ({TIED: "tied"} if copies else {})


Stream = TypeVar("Stream", CompressedScatter, CompressedGather)


class _Flat(Generic[Stream]):
    """Streams of flat pieces, by key."""

    kind: type[Stream]

    def __init__(self, spec: CodecSpec | None, group: Collective, clock: Clock) -> None:
        plain = spec is not None and spec.sums_plainly(group.size)
        self.spec, self.group, self.clock = None if plain else spec, group, clock
        self.streams: dict[str, Stream] = {}

    @property
    def active(self) -> bool:
        """Whether pieces are compressed now."""
        return self.clock.active(self.spec)

    def add(self, key: str, elements: int) -> None:
        """Pieces called `key` have so many elements."""
        if self.spec is not None and elements:
            self.streams[key] = self.kind(self.spec, rows_spec(elements), key, self.group)

    def codecs(self) -> dict[str, Codec]:
        """Every codec in use, by key."""
        return {f"{key}/{name}": c for key, stream in self.streams.items() for name, c in stream.codecs().items()}


class FlatScatter(_Flat[CompressedScatter]):
    """The sums over ranks of flat pieces, each where it belongs. `zero.grads`."""

    kind = CompressedScatter

    def __call__(self, key: str, pieces: Sequence[Tensor]) -> Tensor:
        """The sum over ranks of this rank's piece."""
        if key not in self.streams or not self.active:
            return self.group.scatter_sum(pieces)
        total = self.streams[key]([as_rows(piece) for piece in pieces], self.clock.context())
        return total.reshape(-1)[: pieces[0].numel()]


class FlatGather(_Flat[CompressedGather]):
    """The flat pieces of all ranks, the same bits on every rank. `zero.weights`."""

    kind = CompressedGather

    def __call__(self, key: str, mine: Tensor, dense: bool) -> list[Tensor]:
        """All ranks' pieces, in order of rank."""
        if key not in self.streams or dense:
            return self.group.gather(mine)
        pieces = self.streams[key](as_rows(mine), self.clock.context())
        return [piece.reshape(-1)[: mine.numel()] for piece in pieces]


def segments(sizes: Mapping[str, int], kinds: Mapping[str, str]) -> dict[str, list[tuple[int, int]]]:
    """Where the elements of each kind stand in a flat tensor of all, from first to last + 1.

    >>> segments({"a": 3, "b": 2, "c": 4, "d": 1}, {"b": "alike", "d": "alike"})
    {'': [(0, 3), (5, 9)], 'alike': [(3, 5), (9, 10)]}
    """
    found: dict[str, list[tuple[int, int]]] = {}
    start = 0
    for name, size in sizes.items():
        found.setdefault(kinds.get(name, ""), []).append((start, start + size))
        start += size
    return found
