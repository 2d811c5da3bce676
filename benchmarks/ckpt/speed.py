"""How fast one format becomes another, against a plain copy of the same files, by turns in one process.

Both write into the page cache of one disk (TMPDIR's); the disk is idle before each. Medians of the rounds.

    python benchmarks/ckpt/speed.py [--gigabytes 1] [--rounds 3] [--family llama gpt2] [PATH ...]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from synthetic import write

from mcc.ckpt.convert import convert
from mcc.ckpt.format import WriteOptions
from mcc.core.pages import keep_pages

_PATHS = (("hf", "mcc-safetensors"), ("hf", "mcc"), ("mcc", "hf"), ("hf", "megatron"), ("megatron", "hf"))
_BAR = 0.5


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("paths", nargs="*", help="such as hf:mcc")
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--family", nargs="+", default=["llama", "gpt2"])
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    keep_pages()
    rows: list[dict[str, Any]] = []
    wanted = [tuple(path.split(":")) for path in args.paths] or list(_PATHS)
    for family in args.family:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            size = write(root / "hf", family, args.gigabytes)
            for other in {origin for origin, _ in wanted} - {"hf"}:
                convert(root / "hf", root / other, other, _options(other))
            for origin, target in wanted:
                src, options = root / origin, _options(target)
                copied: list[float] = []
                converted: list[float] = []
                for number in range(args.rounds):
                    runs = [
                        (copied, partial(shutil.copytree, src)),
                        (converted, partial(convert, src, to=target, options=options)),
                    ]
                    for times, run in runs if number % 2 else runs[::-1]:
                        times.append(_time(run, root / "out"))
                took, copy = statistics.median(converted), statistics.median(copied)
                rows.append(
                    {
                        "what": f"{family}: {origin} -> {target}, {size / 1e9:.2f} GB at {size / 1e9 / took:.2f} GB/s "
                        f"(copy: {size / 1e9 / copy:.2f})",
                        "value": round(copy / took, 2),
                        "unit": "of a copy's speed",
                        "bar": f">= {_BAR}",
                        "ok": copy / took >= _BAR,
                    }
                )
                print(rows[-1]["what"], rows[-1]["value"], file=sys.stderr, flush=True)
    print(json.dumps(rows))
    return 0


def _options(to: str) -> WriteOptions:
    layout = {"tp": 2, "pp": 2} if to == "megatron" else {}
    return WriteOptions(shard_bytes=2_000_000_000, **layout)


def _time(run: Callable[..., Any], out: Path) -> float:
    os.sync()
    start = time.perf_counter()
    run(dst=out)
    took = time.perf_counter() - start
    shutil.rmtree(out)
    return took


if __name__ == "__main__":
    sys.exit(main())
