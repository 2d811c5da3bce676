"""What a second worker process is worth: wall time of one against two, on steps that take more than ten seconds."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from corpora import debian_docs, enlarged
from measure import command, row
from memory import commands

# Enough for every step to take more than ten seconds with one worker; the quickest ones get more.
MEGABYTES = 100
TIMES = {"clean": 2, "dedup": 5, "decontaminate": 5, "preprocess": 10}
_STEPS = ("clean", "dedup", "decontaminate", "preprocess")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(rows(Path(folder), sys.argv[1:] or _STEPS)))


def rows(folder: Path, wanted: tuple[str, ...] | list[str] = _STEPS) -> list[dict[str, Any]]:
    """A row a step."""
    found = []
    data = os.environ.get("MCC_TEST_DATA")
    for name, arguments in commands(folder, Path(data) if data else None):
        if name not in wanted:
            continue
        corpus = enlarged(MEGABYTES, TIMES[name]) if TIMES[name] > 1 else debian_docs(MEGABYTES)
        given = [str(a).replace("CORPUS", str(corpus)).replace("SIZE", corpus.stem) for a in arguments]
        one, two = (command([*given, "--workers", count])[0] for count in (1, 2))
        ok = one / two >= 1.6 if one > 10 else None
        found += [row(f"workers: {name}, one", one, "s"), row(f"workers: {name}, two", one / two, "x", ok, ">= 1.6")]
        print(*found[-2:], sep="\n", file=sys.stderr, flush=True)
    return found


if __name__ == "__main__":
    main()
