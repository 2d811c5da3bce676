"""Which of many digests stand there twice: sorted in parts, so that memory does not grow with their number."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mcc.core.events import Reporter
from mcc.data.base.work import Work

DIGEST_BYTES = 16
_ENTRY = np.dtype([("high", "<u8"), ("low", "<u8"), ("place", "<u8")])
# Digests that are sorted at once, and 2 to the how many files there are at most.
_SORTED, _MAX_BITS = 1 << 20, 8


def find_repeated(phase: str, digests: str, name: str, work: Work, reporter: Reporter) -> dict[str, int]:
    """Write a file with a byte for every digest in a stream: 1 when the same digest stands before it.

    Args:
        phase, digests: phase and stream where the digests are, one after the other.
        name: of the file, in the job's folder.

    Returns:
        How many are `repeated`.
    """
    paths = work.parts(phase, digests)
    count = sum(path.stat().st_size for path in paths) // DIGEST_BYTES
    flags = work.path(name)
    with flags.open("wb") as stream:
        stream.truncate(count)
    if not count:
        return {"repeated": 0}
    bits = min(max(count // _SORTED, 1).bit_length(), _MAX_BITS)
    repeated = 0
    with reporter.task("repeated"), flags.open("r+b") as stream:
        for path in _spread(paths, bits, work):
            entries = np.fromfile(path, dtype=_ENTRY)
            entries = entries[np.lexsort((entries["place"], entries["low"], entries["high"]))]
            same = (entries["high"][1:] == entries["high"][:-1]) & (entries["low"][1:] == entries["low"][:-1])
            for place in np.sort(entries["place"][1:][same]).tolist():
                stream.seek(place)
                stream.write(b"\1")
            repeated += int(same.sum())
            path.unlink()
    return {"repeated": repeated}


def _spread(paths: Sequence[Path], bits: int, work: Work) -> list[Path]:
    """The digests with their places, in files by their first bits."""
    found = [work.path(f"digests-{i}") for i in range(1 << bits)]
    streams = [path.open("wb") for path in found]
    try:
        place = 0
        for path in paths:
            with path.open("rb") as digests:
                while raw := digests.read(_SORTED * DIGEST_BYTES):
                    halves = np.frombuffer(raw, dtype="<u8").reshape(-1, 2)
                    entries = np.empty(len(halves), dtype=_ENTRY)
                    entries["high"], entries["low"] = halves[:, 0], halves[:, 1]
                    entries["place"] = np.arange(place, place + len(halves), dtype=np.uint64)
                    place += len(halves)
                    parts = entries["high"] >> np.uint64(64 - bits)
                    for part in np.unique(parts).tolist():
                        streams[part].write(entries[parts == part].tobytes())
    finally:
        for stream in streams:
            stream.close()
    return found
