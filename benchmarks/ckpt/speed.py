"""How fast one format becomes another, against a plain copy of the same files, by turns in one process.

Both write into the page cache of one disk (TMPDIR's) and neither waits for the disk itself (no fsync; with --to-disk
both do); what there is to read is in the page cache too. Before each run as much memory as it needs is touched and
given back: on a virtual machine a page that is used for the first time costs many times a copy, and whoever runs
first would pay for it.
Medians of the rounds.

    python benchmarks/ckpt/speed.py [--gigabytes 1] [--rounds 3] [--workers 1] [--to-disk] [FAMILY:ORIGIN:TARGET ...]

ORIGIN is a format, `mcc@2` (files of two ranks), `megatron+adam` (with optimizer state) or `megatron=2x2` (cut so);
TARGET is a format, or `megatron=1x4` and `mcc=1x4`.
"""

from __future__ import annotations

import argparse
import gc
import json
import mmap
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from origins import build

from mcc.ckpt.convert import convert
from mcc.ckpt.format import WriteOptions
from mcc.core.pages import cheap_blocks

_PATHS = (
    *("llama:hf:mcc", "llama:mcc:hf", "llama:hf:mcc-safetensors", "llama:mcc-safetensors:hf"),
    *("llama:hf:megatron=2x2", "llama:megatron=2x2:hf", "gpt2:hf:megatron=2x2", "gpt2:megatron=2x2:hf"),
    *("gpt2:hf:mcc", "gpt2:mcc:hf", "llama:mcc@2:mcc=1x4", "llama:megatron=2x2:megatron=1x4"),
    *("llama:megatron+adam:megatron=2x2", "llama:megatron+adam:mcc", "gpt2:hf:acsgd", "gpt2:acsgd:hf"),
    *("llama:deepspeed:mcc-safetensors", "gpt2:megatron-core:mcc-safetensors"),
)
_BAR = 0.5


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("paths", nargs="*", help="such as llama:hf:mcc")
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--to-disk", action="store_true", help="until everything is on the disk, for both (sync)")
    args = parser.parse_args()
    if cheap_blocks():
        os.execv(sys.executable, [sys.executable, *sys.argv])  # torch has been loaded already
    rows: list[dict[str, Any]] = [_start_up()]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        kept: tuple[str, str] | None = None
        for path in args.paths or _PATHS:
            family, origin, target = path.split(":")
            if kept != (family, origin):
                shutil.rmtree(root / "in", ignore_errors=True)
                _build(root / "in", family, origin, args.gigabytes)
                kept = family, origin
                os.sync()
            rows.append(_measure(root, path, target, args.rounds, args.workers, args.to_disk))
            print(rows[-1]["what"], rows[-1]["value"], file=sys.stderr, flush=True)
    print(json.dumps(rows))
    return 0


def _build(folder: Path, family: str, origin: str, gigabytes: float) -> None:
    name, _, layout = origin.partition("=")
    if not layout:
        build(name, folder, family, gigabytes)
        return
    whole = folder.with_name("whole")
    build("mcc-safetensors", whole, family, gigabytes)
    convert(whole, folder, name, _options(layout, 1))
    shutil.rmtree(whole)


def _measure(root: Path, path: str, target: str, rounds: int, workers: int, to_disk: bool) -> dict[str, Any]:
    to, _, layout = target.partition("=")
    options, src, out = _options(layout, workers), root / "in", root / "out"
    size = sum(file.stat().st_size for file in src.rglob("*") if file.is_file())
    copied: list[float] = []
    converted: list[float] = []
    for number in range(rounds):
        runs: list[tuple[list[float], Callable[[], Any]]] = [
            (copied, lambda: shutil.copytree(src, out)),
            (converted, lambda: convert(src, out, to, options)),
        ]
        for times, run in runs if number % 2 else runs[::-1]:
            times.append(_time(run, out, size + size // 4, to_disk))
    took, copy = statistics.median(converted), statistics.median(copied)
    return {
        "what": f"{path}, {size / 1e9:.2f} GB at {size / 1e9 / took:.2f} GB/s (copy: {size / 1e9 / copy:.2f})",
        "value": round(copy / took, 2),
        "unit": "of a copy's speed",
        "bar": f">= {_BAR}",
        "ok": copy / took >= _BAR,
    }


def _options(layout: str, workers: int) -> WriteOptions:
    tp, pp = map(int, (layout or "1x1").split("x"))
    return WriteOptions(shard_bytes=2_000_000_000, tp=tp, pp=pp, workers=workers)


def _time(run: Callable[[], Any], out: Path, room: int, to_disk: bool) -> float:
    gc.collect()
    os.sync()
    with mmap.mmap(-1, room) as pages:
        for start in range(0, room, mmap.PAGESIZE):
            pages[start] = 1
    start_s = time.perf_counter()
    run()
    if to_disk:
        os.sync()
    took = time.perf_counter() - start_s
    shutil.rmtree(out)
    return took


def _start_up() -> dict[str, Any]:
    """What a command needs before it reads the first tensor, which is not in the figures of the conversions."""
    with tempfile.TemporaryDirectory() as folder:
        build("hf", Path(folder) / "in", "llama", 0.001)
        command = [sys.executable, "-m", "mcc", "ckpt", "convert", f"{folder}/in", f"{folder}/out", "--to"]
        times = []
        for _ in range(3):
            start = time.perf_counter()
            subprocess.run([*command, "mcc", "--force"], stdout=subprocess.DEVNULL, check=True)
            times.append(time.perf_counter() - start)
    return {"what": "mcc ckpt convert of a model of 40 MB: start-up", "value": round(min(times), 2), "unit": "s"}


if __name__ == "__main__":
    sys.exit(main())
