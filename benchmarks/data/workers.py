"""What a second worker process is worth: wall time of one against two, on every step that takes more than ten seconds.

    python benchmarks/data/workers.py             every step that has --workers
    python benchmarks/data/workers.py clean wiki  some

One worker and two take turns, and the median of each one's rounds counts. What the round before wrote is deleted first.
Steps that are done in less than ten seconds with the largest corpus here (a gigabyte) are shown without a bar.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from measure import command, row
from steps import arguments, source_of

# Step -> how many times 100 MB, so that it takes more than ten seconds with one worker if it can.
STEPS = {
    "wiki": 1,
    "clean": 1,
    "dedup": 5,
    "tokenizer": 1,
    "decontaminate": 5,
    "preprocess": 10,
    "shuffle": 10,
    "urls": 10,
    "holdout": 10,
    "ids": 10,
    "concat": 10,
}
MEGABYTES, ROUNDS, OUT = 100, 3, "out"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(rows(Path(folder), sys.argv[1:])))


def rows(folder: Path, wanted: list[str] | None = None) -> list[dict[str, Any]]:
    """Two rows a step."""
    found = []
    for step in wanted or STEPS:
        source = source_of(step, MEGABYTES, STEPS[step], folder / step)
        if source is None:
            continue
        given = arguments(step, source, folder / step / OUT)
        # One process, one core; but the trainer's threads are as many as its processes.
        os.environ.pop("RAYON_NUM_THREADS", None)
        if step != "tokenizer":
            os.environ["RAYON_NUM_THREADS"] = "1"
        times: dict[int, list[float]] = {1: [], 2: []}
        for _, count in itertools.product(range(ROUNDS), times):
            shutil.rmtree(folder / step / OUT, ignore_errors=True)
            times[count].append(command([*given, "--workers", count])[0])
        print(step, times, file=sys.stderr)
        one, two = map(median, times.values())
        ok = one / two >= 1.6 if one > 10 else None
        found += [row(f"workers: {step}, one", one, "s"), row(f"workers: {step}, two", one / two, "x", ok, ">= 1.6")]
        print(*found[-2:], sep="\n", file=sys.stderr, flush=True)
    return found


if __name__ == "__main__":
    main()
