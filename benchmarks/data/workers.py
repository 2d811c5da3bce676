"""What a second worker process is worth: wall time of one against two, on every step that takes more than ten seconds.

    python benchmarks/data/workers.py             every step that has --workers
    python benchmarks/data/workers.py clean wiki  some

One worker, two, and two runs of one worker at once take turns, and the median of each one's rounds counts: the last
says what the machine gives at most. What the round before wrote is deleted first.
Steps that are done in less than ten seconds with the largest corpus here (a gigabyte) are shown without a bar.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
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
# Workers of each run that is made at once.
RUNS = {"one": (1,), "two": (2,), "twice one": (1, 1)}
MEGABYTES, ROUNDS, OUT = 100, 5, "out"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(rows(Path(folder), sys.argv[1:])))


def rows(folder: Path, wanted: list[str] | None = None) -> list[dict[str, Any]]:
    """Three rows a step."""
    found = []
    for step in wanted or STEPS:
        source = source_of(step, MEGABYTES, STEPS[step], folder / step)
        if source is None:
            continue
        # One process, one core; but the trainer's threads are as many as its processes.
        os.environ.pop("RAYON_NUM_THREADS", None)
        if step != "tokenizer":
            os.environ["RAYON_NUM_THREADS"] = "1"
        times: dict[str, list[float]] = {name: [] for name in RUNS}
        for _, name in itertools.product(range(ROUNDS), RUNS):
            out = folder / step / OUT
            shutil.rmtree(out, ignore_errors=True)
            times[name].append(
                at_once([[*arguments(step, source, out / str(i)), "--workers", n] for i, n in enumerate(RUNS[name])])
            )
        print(step, times, file=sys.stderr)
        one, two, twice = map(median, times.values())
        ok = one / two >= 1.6 if one > 10 else None
        found += [
            row(f"workers: {step}, one", one, "s"),
            row(f"workers: {step}, two", one / two, "x", ok, ">= 1.6"),
            row(f"workers: {step}, two runs of one at once", 2 * one / twice, "x"),
        ]
        print(*found[-3:], sep="\n", file=sys.stderr, flush=True)
    return found


def at_once(commands: list[list[object]]) -> float:
    """Wall time until all are done."""
    with ThreadPoolExecutor(len(commands)) as threads:
        return max(wall for wall, *_ in threads.map(command, commands))


if __name__ == "__main__":
    main()
