"""The peak memory of `mcc ckpt convert` for a model of 10 GB: every page of the process, mapped files too.

python benchmarks/ckpt/memory.py [--gigabytes 10] [--family llama] [--origin mcc@2] [FORMAT ...]

ORIGIN as in `speed.py`; those of other systems are made in memory.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from origins import build
from synthetic import config_of

from mcc.ckpt.format import formats
from mcc.ckpt.source import expected_shapes

_BAR = 1.5e9


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("targets", nargs="*")
    parser.add_argument("--origin", default="hf")
    parser.add_argument("--gigabytes", type=float, default=10.0)
    parser.add_argument("--family", default="gpt2")
    args = parser.parse_args()
    need = 2.2e9 * args.gigabytes
    if shutil.disk_usage(tempfile.gettempdir()).free < need:
        print(f"error: {tempfile.gettempdir()} has no {need / 1e9:.0f} GB free", file=sys.stderr)
        return 1
    targets = args.targets or [name for name, plugin in formats.all() if not plugin.read_only]
    largest = 4 * max(map(math.prod, expected_shapes(config_of(args.family, args.gigabytes)).values()))
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        made = (args.origin, Path(folder) / "in", args.family, args.gigabytes)
        # In a process of its own: Linux counts what the parent has had among its child's pages.
        maker = get_context("spawn").Process(target=build, args=made)
        maker.start()
        maker.join()
        size = sum(file.stat().st_size for file in Path(folder, "in").rglob("*") if file.is_file())
        for target in targets:
            command = [sys.executable, "-m", "mcc", "ckpt", "convert", f"{folder}/in", f"{folder}/out", "--to", target]
            start = time.perf_counter()
            child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            took = time.perf_counter() - start
            shutil.rmtree(f"{folder}/out", ignore_errors=True)
            peak = usage.ru_maxrss * 1024
            bar = min(_BAR, 3 * largest + 5e8)
            rows.append(
                {
                    "what": f"{args.family}: {args.origin} -> {target}, {size / 1e9:.1f} GB, largest tensor "
                    f"{largest / 1e6:.0f} MB, {took:.0f} s: peak memory",
                    "value": round(peak / 1e9, 2),
                    "unit": "GB",
                    "bar": f"<= {bar / 1e9:.2f}",
                    "ok": child.returncode == 0 and peak <= bar,
                }
            )
            print(rows[-1]["what"], rows[-1]["value"], file=sys.stderr, flush=True)
    print(json.dumps(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
