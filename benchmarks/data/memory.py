"""Peak memory of every step over a corpus and over one ten times as large: it may grow by a fifth at most."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from corpora import debian_docs
from measure import command, row

# The smaller corpus; large enough that several blocks are under way.
MEGABYTES = 12
TIMES = 10


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(rows(Path(folder), sys.argv[1:])))


def rows(folder: Path, wanted: list[str] | None = None) -> list[dict[str, Any]]:
    """A row a step (of those `wanted`)."""
    found = []
    small, large = debian_docs(MEGABYTES), debian_docs(MEGABYTES * TIMES)
    data = os.environ.get("MCC_TEST_DATA")
    for name, arguments in commands(folder, Path(data) if data else None):
        if wanted and name not in wanted:
            continue
        peaks = []
        for corpus in (small, large):
            given = [str(a).replace("CORPUS", str(corpus)).replace("SIZE", corpus.stem) for a in arguments]
            peaks.append(command(given)[2])
        growth = peaks[1] / peaks[0]
        found.append(row(f"memory: {name}", peaks[1] / 2**20, "MiB"))
        found.append(row(f"memory: {name}, {TIMES}x the corpus", growth, "x", growth <= 1.2, "<= 1.2"))
        print(*found[-2:], sep="\n", file=sys.stderr, flush=True)
    return found


def commands(folder: Path, data: Path | None) -> Iterator[tuple[str, list[object]]]:
    """Every step over `CORPUS`."""

    def out(name: str) -> Path:
        return folder / f"SIZE-{name}"

    yield "clean", ["data", "clean", "CORPUS", "-o", out("c.jsonl"), "--filters", "ftfy,whitespace,min-chars,language"]
    yield "dedup", ["data", "dedup", "CORPUS", "-o", out("d.jsonl")]
    yield "shuffle", ["data", "shuffle", "CORPUS", "-o", out("s.jsonl")]
    yield "holdout", ["data", "holdout", "CORPUS", "-o", out("h.jsonl"), "--held-out", out("h2.jsonl")]
    yield "ids", ["data", "ids", "CORPUS", "-o", out("i.jsonl")]
    yield "concat", ["data", "concat", "CORPUS", "-o", out("k.jsonl")]
    yield "urls", ["data", "urls", "CORPUS", "-o", out("u.jsonl"), "--key", "id", "--no-lists", "--allow-malformed"]
    yield "tokenizer", ["data", "tokenizer", "CORPUS", "-o", out("t.json"), "--vocab-size", 4096]
    if data is None:
        return
    task = ["--task", "lambada", "--task-file", data / "lambada" / "lambada_test.jsonl"]
    yield "decontaminate", ["data", "decontaminate", "CORPUS", "-o", out("n.jsonl"), *task]
    yield (
        "preprocess",
        ["data", "preprocess", "CORPUS", "--output-prefix", out("p"), "--tokenizer", data / "gpt2", "--append-eod"],
    )


if __name__ == "__main__":
    main()
