"""Candidates compared exactly, and decided in the order of their ranks.

The files of links that `mcc.data.near_duplicates.candidates` wrote are independent of each other. In memory are a few
bytes a follower of one file, and bounded caches; links, sketches and texts stay on disk.
"""

# b bands

from __future__ import annotations

import math
import os
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from mcc.data.near_duplicates.candidates import NONE, Ranks
from mcc.data.near_duplicates.fingerprints import Fingerprints
from mcc.data.near_duplicates.shingles import Comparer
from mcc.data.near_duplicates.sketch import Engine

# How far an estimate may fall below the threshold before the pair is left alone: so many standard deviations.
_DEVIATIONS = 3.0
_CACHED_TEXT_BYTES = 32 << 20
_CACHED_SMALL = 1 << 14
Value = TypeVar("Value")


class Likeness:
    """How alike documents are: an estimate first, and where it comes near the threshold, the exact Jaccard index.

    Attributes:
        compared: pairs that were compared exactly.
    """

    def __init__(self, prints: Fingerprints, order: Ranks, engine: Engine, chars: int, threshold: float) -> None:
        self._prints, self._order, self._engine = prints, order, engine
        self._threshold = threshold
        deviation = math.sqrt(threshold * (1 - threshold) / engine.samples)
        self._cutoff = threshold - _DEVIATIONS * deviation - 1 / engine.samples
        self._comparer = Comparer(chars)
        self._sketches: _Recent[bytes] = _Recent(_CACHED_SMALL, lambda value: 1)
        self._texts: _Recent[str] = _Recent(_CACHED_TEXT_BYTES, lambda text: 4 * len(text) + 100)
        self.compared = 0

    def near(self, rank: int, others: Sequence[int]) -> list[int]:
        """Those of `others` whose sketches say that they may be duplicates."""
        own = self._sketch(rank)
        likely: list[int] = []
        for start in range(0, len(others), _CACHED_SMALL):
            some = others[start : start + _CACHED_SMALL]
            found = self._engine.likeness(own, [self._sketch(other) for other in some])
            likely += [some[i] for i in np.flatnonzero(found >= self._cutoff).tolist()]
        return likely

    def exact(self, rank: int, other: int) -> float | None:
        """The Jaccard index when it reaches the threshold."""
        self.compared += 1
        found = self._comparer.jaccard(self._text(rank), self._text(other))
        return found if found >= self._threshold else None

    def _sketch(self, rank: int) -> bytes:
        return self._sketches.get(rank, lambda: self._prints.sketch(self._order.document(rank)))

    def _text(self, rank: int) -> str:
        return self._texts.get(rank, lambda: self._prints.text(self._order.document(rank)))


class _Recent(Generic[Value]):
    """Keeps what was asked for last, up to a total size."""

    def __init__(self, most: int, size: Callable[[Value], int]) -> None:
        self._most, self._size = most, size
        self._held: OrderedDict[int, Value] = OrderedDict()
        self._total = 0

    def get(self, key: int, make: Callable[[], Value]) -> Value:
        found = self._held.get(key)
        if found is not None:
            self._held.move_to_end(key)
            return found
        made = self._held[key] = make()
        self._total += self._size(made)
        while self._total > self._most and len(self._held) > 2:
            _, old = self._held.popitem(last=False)
            self._total -= self._size(old)
        return made


class Links:
    """The rows of a file of links, which lead to the one before in a bucket; they are changed as decisions fall.

    Attributes:
        ranks: uint32[followers], rising.
    """

    def __init__(self, path: Path, bands: int) -> None:
        self._width = 4 * (1 + bands)
        self._bands = bands
        self._file = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115 - closed with this object
        parts = []
        with path.open("rb") as file:
            while raw := file.read(self._width << 12):
                self._file.write(raw)
                parts.append(np.frombuffer(raw, dtype=np.uint32)[:: 1 + bands].copy())
        self._file.flush()
        self.ranks = np.concatenate(parts) if parts else np.empty(0, dtype=np.uint32)
        self._rows: _Recent[NDArray[np.uint32]] = _Recent(_CACHED_SMALL, lambda value: 1)

    def __enter__(self) -> Links:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def position(self, rank: int) -> int | None:
        """Which follower it is; None for a document that follows none."""
        at = int(self.ranks.searchsorted(rank))
        return at if at < len(self.ranks) and self.ranks[at] == rank else None

    def row(self, at: int) -> NDArray[np.uint32]:
        """uint32[b]."""
        return self._rows.get(at, lambda: self._read(at))

    def _read(self, at: int) -> NDArray[np.uint32]:
        raw = os.pread(self._file.fileno(), self._width - 4, self._width * at + 4)
        return np.frombuffer(raw, dtype=np.uint32).copy()

    def store(self, at: int, row: NDArray[np.uint32]) -> None:
        """Write a row that was changed in place."""
        os.pwrite(self._file.fileno(), row.tobytes(), self._width * at + 4)

    def step(self, row: NDArray[np.uint32], only: Callable[[int], bool] | None = None) -> NDArray[np.uint32]:
        """One link further in every band whose link leads to a document that `only` holds for."""
        found = row.copy()
        for before in set(row.tolist()) - {NONE}:
            at = self.position(before)
            if only is None or (at is not None and only(at)):
                mine = row == before
                found[mine] = NONE if at is None else self.row(at)[mine]
        return found


def duplicates(links: Links, likeness: Likeness, loaded: int) -> Iterator[tuple[int, int, float]]:
    """(rank, kept rank, similarity) of every follower that is a duplicate of an earlier document that was kept.

    Args:
        loaded: so many ranks are kept whatever they are like.
    """
    removed = np.zeros(len(links.ranks), dtype=bool)
    for at, rank in enumerate(links.ranks.tolist()):
        # Removed documents are left out of the links; those of a document before are settled.
        row = links.step(links.row(at), lambda before: bool(removed[before]))
        links.row(at)[:] = row
        links.store(at, row)
        if rank < loaded:
            continue
        earlier: set[int] = set()
        while fresh := set(row.tolist()) - {NONE}:
            earlier |= fresh
            row = links.step(row)
        for kept in likeness.near(rank, sorted(earlier)) if earlier else ():
            similarity = likeness.exact(rank, kept)
            if similarity is not None:
                removed[at] = True
                yield rank, kept, similarity
                break


def pairs(links: Links, likeness: Likeness, loaded: int, mains: int) -> Iterator[tuple[int, int, float]]:
    """(main rank, rank, similarity) of pairs, bucket by bucket as the OpenWebText scripts pair documents.

    The first document of a bucket is its main one; each later one is compared with the main ones of its buckets, in
    order, until it is like one. Like none, it becomes a main one too, as long as there are fewer than `mains`.
    """
    bands = len(links.row(0)) if len(links.ranks) else 0
    is_main = np.zeros((len(links.ranks), bands), dtype=bool)
    for at, rank in enumerate(links.ranks.tolist()):
        row = links.row(at)
        for before in set(row.tolist()) - {NONE}:
            place = links.position(before)
            if place is not None:
                skip = (row == before) & ~is_main[place]
                row[skip] = links.row(place)[skip]
        links.store(at, row)
        chains: list[list[int]] = [[] for _ in range(bands)]
        current = row
        while (current != NONE).any():
            for band in np.flatnonzero(current != NONE).tolist():
                chains[band].append(int(current[band]))
            current = links.step(current)
        known: dict[int, float | None] = dict.fromkeys(other for chain in chains for other in chain)
        for other in likeness.near(rank, sorted(known)) if known else ():
            if other >= loaded or rank >= loaded:
                known[other] = likeness.exact(rank, other)
        told: set[int] = set()
        for band, chain in enumerate(chains):
            like = next((other for other in reversed(chain) if known[other] is not None), None)
            if like is None:
                is_main[at, band] = len(chain) < mains
            elif like not in told:
                told.add(like)
                yield like, rank, known[like] or 0.0
