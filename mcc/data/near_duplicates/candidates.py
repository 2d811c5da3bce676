"""Which documents are worth comparing: those that meet in a band, found by sorting keys band by band.

Documents are taken in the order in which they are decided (their rank). A document that meets an earlier one in some
band is a follower: it gets a row of links, in each band to the one before it in its bucket. Followers that are
connected through buckets are written to the same file, so that files can be decided independently. Resident are about
30 bytes a document; the keys of a band are sorted some at a time.
"""

# n documents, b bands

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from mcc.core.errors import MccError
from mcc.core.events import SILENT, Reporter
from mcc.data.near_duplicates.fingerprints import Fingerprints
from mcc.data.near_duplicates.shingles import mixed

NONE = 0xFFFFFFFF
# Entries of a band that are sorted at once; more are first spread over files by their keys.
SORTED_ENTRIES = 1 << 20
# Followers whose links are put together at once.
_ROWS = 1 << 14
# Files of links: enough to share the work, not more than can be open at once.
_GROUP_DOCUMENTS, _GROUPS, _GROUPS_MOST = 256, 64, 400
_ENTRY = np.dtype([("key", "<u8"), ("rank", "<u4")])
_PAIR = np.dtype([("rank", "<u4"), ("before", "<u4")])


@dataclass(frozen=True)
class Ranks:
    """In which order documents are decided.

    Args:
        order: uint32[n], rank -> document; None when a document's number is its rank.
        rank: uint32[n], document -> rank.
    """

    order: NDArray[np.uint32] | None
    rank: NDArray[np.uint32] | None

    def document(self, rank: int) -> int:
        """The document of a rank."""
        return rank if self.order is None else int(self.order[rank])

    def of_span(self, first: int, end: int) -> NDArray[np.uint32]:
        """The ranks of documents [first, end)."""
        if self.rank is None:
            return np.arange(first, end, dtype=np.uint32)
        return self.rank[first:end]

    def save(self, path: Path) -> None:
        """Write them, for `load`."""
        path.write_bytes(b"" if self.order is None else self.order.tobytes())

    @staticmethod
    def load(path: Path) -> Ranks:
        """What `save` wrote, without document -> rank."""
        raw = np.fromfile(path, dtype=np.uint32)
        return Ranks(raw if raw.size else None, None)


def ranks(prints: Fingerprints, column: str | None) -> Ranks:
    """Loaded documents first, in their order; others by falling values of `column`, equal ones in their order.

    Raises:
        MccError: there are 2^32 - 1 documents or more.
    """
    if len(prints) >= NONE:
        raise MccError(f"{len(prints):,} documents, more than {NONE - 1:,}", "deduplicate some of the files at a time")
    if column is None:
        return Ranks(None, None)
    values = np.full(len(prints), np.inf)
    for chunk in range(prints.chunks):
        first, end = prints.span(chunk)
        if not prints.is_loaded(chunk):
            values[first:end] = prints.column(chunk, column)
    np.negative(values, out=values)
    order = np.argsort(values, kind="stable").astype(np.uint32)
    rank = np.empty(len(order), dtype=np.uint32)
    rank[order] = np.arange(len(order), dtype=np.uint32)
    return Ranks(order, rank)


def find_candidates(
    prints: Fingerprints, found: Ranks, bands: int, folder: Path, reporter: Reporter = SILENT
) -> dict[str, int]:
    """Write `original` (uint32[n]: rank -> rank of the first document with the same text) and files `group-NNN`.

    A group file holds rows of 1 + b uint32: a follower's rank, then its links (`NONE`: it is the first of its bucket).

    Returns:
        how many documents are copies and how many are followers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with reporter.task("dedup: candidates", total=bands + 1, unit="bands") as task:
        original = _originals(prints, found, folder)
        original.tofile(folder / "original")
        is_copy = original != np.arange(len(original), dtype=np.uint32)
        task.advance()
        sets = Sets(len(original))
        for band in range(bands):
            with (folder / f"pairs-{band}").open("wb") as file:
                for entries in _sorted_by_key(_band_entries(prints, found, band, is_copy), len(original), folder):
                    pairs = _neighbours(entries)
                    sets.join(pairs["rank"], pairs["before"])
                    pairs.tofile(file)
            task.advance()
    followers = _write_groups(bands, len(original), sets, folder)
    return {"copies": int(is_copy.sum()), "followers": followers}


def _originals(prints: Fingerprints, found: Ranks, folder: Path) -> NDArray[np.uint32]:
    """The first document, by rank, of every text."""
    first, also = (_first_of_key(_digest_entries(prints, found, half), len(prints), folder) for half in (0, 1))
    # A document is a copy of another when both halves of their digests agree. Were a half equal by chance, the two
    # answers would differ, and the document would pass for no copy.
    return np.where(first == also, first, np.arange(len(first), dtype=np.uint32))


def _digest_entries(prints: Fingerprints, found: Ranks, half: int) -> Iterator[NDArray[np.void]]:
    for chunk in range(prints.chunks):
        keys = prints.column(chunk, "digest").reshape(-1, 2)[:, half]
        part = np.empty(len(keys), dtype=_ENTRY)
        part["key"], part["rank"] = keys, found.of_span(*prints.span(chunk))
        yield part


def _first_of_key(entries: Iterator[NDArray[np.void]], count: int, folder: Path) -> NDArray[np.uint32]:
    first = np.arange(count, dtype=np.uint32)
    for part in _sorted_by_key(entries, count, folder):
        starts = _starts(part)
        first[part["rank"]] = part["rank"][starts][np.cumsum(starts) - 1]
    return first


def _band_entries(
    prints: Fingerprints, found: Ranks, band: int, is_copy: NDArray[np.bool_]
) -> Iterator[NDArray[np.void]]:
    for chunk in range(prints.chunks):
        own = found.of_span(*prints.span(chunk))
        use = ~is_copy[own]
        part = np.empty(int(use.sum()), dtype=_ENTRY)
        part["key"], part["rank"] = prints.band(chunk, band)[use], own[use]
        yield part


def _sorted_by_key(entries: Iterator[NDArray[np.void]], count: int, folder: Path) -> Iterator[NDArray[np.void]]:
    """All entries by key, then rank, some at a time; equal keys come together."""
    files = -(-count // SORTED_ENTRIES)
    if files <= 1:
        parts = list(entries)
        if parts:
            yield _sorted(np.concatenate(parts))
        return
    paths = [folder / f"keys-{i}" for i in range(min(files, _GROUPS_MOST))]
    handles = [path.open("wb", buffering=1 << 16) for path in paths]
    try:
        for part in entries:
            # By the upper half of the key: a product of 32-bit numbers cannot overflow.
            place = (part["key"] >> np.uint64(32)) * np.uint64(len(paths)) >> np.uint64(32)
            _spread(part, place, handles)
    finally:
        for handle in handles:
            handle.close()
    for path in paths:
        yield _sorted(np.fromfile(path, dtype=_ENTRY))
        path.unlink()


def _spread(part: NDArray[np.void], place: NDArray[np.uint64], handles: Sequence[IO[bytes]]) -> None:
    order = np.argsort(place, kind="stable")
    ends = np.searchsorted(place[order], np.arange(len(handles) + 1, dtype=np.uint64))
    chosen = part[order]
    for i in np.flatnonzero(np.diff(ends)).tolist():
        handles[i].write(chosen[ends[i] : ends[i + 1]].tobytes())


def _sorted(entries: NDArray[np.void]) -> NDArray[np.void]:
    """By key, then rank. Few keys are there twice, and numpy sorts one column several times as fast as two."""
    keys = np.ascontiguousarray(entries["key"])
    order = np.argsort(keys)
    same = keys[order[1:]] == keys[order[:-1]]
    shared = np.flatnonzero(np.concatenate((same, [False])) | np.concatenate(([False], same)))
    chosen = order[shared]
    order[shared] = chosen[np.lexsort((entries["rank"][chosen], keys[chosen]))]
    ordered: NDArray[np.void] = entries[order]
    return ordered


def _starts(entries: NDArray[np.void]) -> NDArray[np.bool_]:
    keys = entries["key"]
    return np.concatenate((np.ones(min(len(keys), 1), dtype=bool), keys[1:] != keys[:-1]))


def _neighbours(entries: NDArray[np.void]) -> NDArray[np.void]:
    """(rank, the one before it in its bucket), sorted by rank."""
    inside = np.flatnonzero(~_starts(entries))
    pairs = np.empty(len(inside), dtype=_PAIR)
    pairs["rank"], pairs["before"] = entries["rank"][inside], entries["rank"][inside - 1]
    return pairs[np.argsort(pairs["rank"], kind="stable")]


class Sets:
    """Disjoint sets of ranks, joined many at a time. The least rank stands for a set."""

    def __init__(self, count: int) -> None:
        self.parent = np.arange(count, dtype=np.uint32)

    def roots(self, of: NDArray[np.uint32]) -> NDArray[np.uint32]:
        found = self.parent[of]
        while True:
            above = self.parent[found]
            if np.array_equal(above, found):
                break
            found = self.parent[above]
        self.parent[of] = found
        return found

    def join(self, left: NDArray[np.uint32], right: NDArray[np.uint32]) -> None:
        while len(left):
            left, right = self.roots(left), self.roots(right)
            apart = left != right
            left, right = left[apart], right[apart]
            np.minimum.at(self.parent, np.maximum(left, right), np.minimum(left, right))


def _write_groups(bands: int, count: int, sets: Sets, folder: Path) -> int:
    """Rows of links, from the pairs of each band. Pairs that were spread over files are sorted within each only."""
    groups = min(max(min(count // _GROUP_DOCUMENTS, _GROUPS), 1) + count // SORTED_ENTRIES, _GROUPS_MOST)
    handles = [(folder / f"group-{i:03d}").open("wb", buffering=1 << 16) for i in range(groups)]
    total = 0
    try:
        with _Pairs(folder, bands, count) as pairs:
            for first in range(0, count, _ROWS):
                size = min(_ROWS, count - first)
                links = np.full((size, bands), NONE, dtype=np.uint32)
                for band in range(bands):
                    found = pairs.of_ranks(band, first + size)
                    links[found["rank"] - first, band] = found["before"]
                chosen = np.flatnonzero((links != NONE).any(axis=1))
                if not chosen.size:
                    continue
                rows = np.empty((len(chosen), 1 + bands), dtype=np.uint32)
                rows[:, 0], rows[:, 1:] = chosen + first, links[chosen]
                place = mixed(sets.roots(rows[:, 0]).astype(np.uint64)) % np.uint64(groups)
                for i in np.unique(place):
                    handles[int(i)].write(rows[place == i].tobytes())
                total += len(chosen)
    finally:
        for handle in handles:
            handle.close()
    return total


class _Pairs:
    """The pairs of every band, read in the order of their ranks."""

    def __init__(self, folder: Path, bands: int, count: int) -> None:
        self._paths = [folder / f"pairs-{band}" for band in range(bands)]
        for path in self._paths:
            if count > SORTED_ENTRIES:
                _sort_pairs(path, count)
        self._files = [path.open("rb") for path in self._paths]
        self._left = [np.empty(0, dtype=_PAIR)] * bands

    def __enter__(self) -> _Pairs:
        return self

    def __exit__(self, *_: object) -> None:
        for file, path in zip(self._files, self._paths, strict=True):
            file.close()
            path.unlink()

    def of_ranks(self, band: int, end: int) -> NDArray[np.void]:
        """Those of ranks below `end` that have not been given yet."""
        parts = [self._left[band]]
        while not len(parts[-1]) or parts[-1]["rank"][-1] < end:
            more = np.fromfile(self._files[band], dtype=_PAIR, count=1 << 10)
            if not len(more):
                break
            parts.append(more)
        found = np.concatenate(parts)
        cut = int(np.searchsorted(found["rank"], end))
        self._left[band] = found[cut:]
        return found[:cut]


def _sort_pairs(path: Path, count: int) -> None:
    """Sort a band's pairs by rank, spread over files by rank."""
    files = -(-count // SORTED_ENTRIES)
    paths = [path.with_name(f"{path.name}-{i}") for i in range(files)]
    handles = [each.open("wb", buffering=1 << 14) for each in paths]
    try:
        with path.open("rb") as file:
            while len(part := np.fromfile(file, dtype=_PAIR, count=1 << 16)):
                _spread(part, (part["rank"] // np.uint32(SORTED_ENTRIES)).astype(np.uint64), handles)
    finally:
        for handle in handles:
            handle.close()
    with path.open("wb") as file:
        for each in paths:
            found = np.fromfile(each, dtype=_PAIR)
            found[np.argsort(found["rank"], kind="stable")].tofile(file)
            each.unlink()
