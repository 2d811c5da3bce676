"""Everything that only a GPU shows, on a machine with one, in one call. Exit 1 when something misses its bar or fails.

    python benchmarks/gpu/run.py --json gpu.json
    python benchmarks/gpu/run.py --parts speed memory
    python benchmarks/gpu/run.py --device cpu --tiny --eager     every part, made small enough to try it without a GPU

layouts   several ranks that share the GPU train as one process does: every axis, codecs, bf16 and fp16
nccl      one process with NCCL
command   `mcc train` with two ranks: trains, saves, goes on
speed     tokens/s and MFU against transformers' own model, both compiled
memory    recomputation, and the loss over a sharded vocabulary
kernels   the codecs': bits of plain torch, rates beside a copy
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import command
import kernels
import layouts
import memory
import speed
import torch

from mcc.cli.console import table
from mcc.core.errors import UsageError
from mcc.core.files import write_text
from mcc.train.device import choose


def main(arguments: list[str] | None = None) -> int:
    """Run the parts that are asked for; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts: dict[str, Callable[[str, bool], list[dict[str, Any]]]] = {
        "layouts": layouts.measure,
        "nccl": layouts.measure_nccl,
        "command": command.measure,
        "speed": lambda device, tiny: speed.measure(device, tiny, not options.eager),
        "memory": memory.measure,
        "kernels": kernels.measure,
    }
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts), help="run these alone")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small models and two ranks: to try the script itself")
    parser.add_argument("--eager", action="store_true", help="do not compile in the part speed")
    parser.add_argument("--json", type=Path, help="write the rows here, too")
    options = parser.parse_args(arguments)
    try:
        device = choose(options.device, 0)
    except UsageError as error:
        print(f"error: {error.what}; --device cpu --tiny tries every part without one", file=sys.stderr)
        return error.exit_code
    rows = []
    for part in options.parts:
        print(f"{part} ...", file=sys.stderr, flush=True)
        began = time.perf_counter()
        try:
            found = parts[part](options.device, options.tiny)
        except Exception as error:  # the other parts are worth having all the same
            found = [{"what": f"failed: {_last_line(error)}", "ok": False}]
        print(f"{part}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        rows += [{"part": part, **row} for row in found]
    met = {True: "yes", False: "NO", None: ""}
    columns = ("part", "what", "value", "unit", "bar")
    table("On " + _name(device), (*columns, "met"), [[*map(row.get, columns), met[row.get("ok")]] for row in rows])
    if options.json:
        machine = {"device": _name(device), "torch": torch.__version__, "cuda": torch.version.cuda}
        machine["python"] = platform.python_version()
        write_text(options.json, json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
    return 1 if any(row.get("ok") is False for row in rows) else 0


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"


def _last_line(error: Exception) -> str:
    """The line of a traceback that says what happened; that of another process is the error's text."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return (lines or [type(error).__name__])[-1]


if __name__ == "__main__":
    sys.exit(main())
