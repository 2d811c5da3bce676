"""Peak memory of every step over a corpus and over one ten times as large: it may grow by a fifth at most.

    python benchmarks/data/memory.py                every step
    python benchmarks/data/memory.py dedup shuffle  some

The largest process of a command counts, started afresh for each. Both with documents as they come and with very many
short ones, where it shows what a step keeps of each; dedup may keep 100 bytes.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from measure import command, row
from steps import STEPS, arguments, prepared, short_documents, source_of

# The smaller corpus; large enough that several blocks are under way.
MEGABYTES, TIMES = 12, 10
_FEW, _MANY = 36_000, 360_000


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(rows(Path(folder), sys.argv[1:])))


def rows(folder: Path, wanted: list[str] | None = None) -> list[dict[str, Any]]:
    """Some rows a step (of those `wanted`)."""
    found = []
    for step in wanted or STEPS:
        small, large = (source_of(step, MEGABYTES, times, folder / step) for times in (1, TIMES))
        if small is None or large is None:
            continue
        peaks = _peaks(step, small, large, folder / step)
        found.append(row(f"memory: {step}", peaks[1] / 2**20, "MiB"))
        found.append(_growth(f"memory: {step}, {TIMES}x the corpus", peaks))
        if step != "wiki":
            few, many = (prepared(step, short_documents(n), folder / step / str(n)) for n in (_FEW, _MANY))
            found.append(_short(step, _peaks(step, few, many, folder / step)))
        print(*found[-3:], sep="\n", file=sys.stderr, flush=True)
    return found


def _peaks(step: str, small: Path, large: Path, folder: Path) -> list[int]:
    return [command(arguments(step, source, folder / f"out{i}"))[2] for i, source in enumerate((small, large))]


def _short(step: str, peaks: list[int]) -> dict[str, Any]:
    if step != "dedup":
        return _growth(f"memory: {step}, 10x as many documents: {_MANY:,}", peaks)
    share = (peaks[1] - peaks[0]) / (_MANY - _FEW)
    return row(f"memory: dedup, of {_MANY:,} documents, each", share, "bytes", share <= 100, "<= 100")


def _growth(what: str, peaks: list[int]) -> dict[str, Any]:
    growth = peaks[1] / peaks[0]
    return row(what, growth, "x", growth <= 1.2, "<= 1.2")


if __name__ == "__main__":
    main()
