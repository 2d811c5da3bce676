"""What the benchmarks of the data steps share: CPU time and peak memory of a piece of work, and rows of results."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def row(what: str, value: float, unit: str = "", ok: bool | None = None, bar: str = "") -> dict[str, Any]:
    """A line of the table: three significant digits; `ok` and `bar` where there is a bar to meet."""
    rounded = float(f"{value:.3g}") if isinstance(value, float) else value
    return {"what": what, "value": rounded, "unit": unit, **({} if ok is None else {"ok": ok, "bar": bar})}


def cpu(step: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of `step`, all threads and all processes that ended in it, and what it returns."""
    started = _cpu_seconds()
    result = step()
    return _cpu_seconds() - started, result


def _cpu_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def command(arguments: Sequence[object]) -> tuple[float, float, int]:
    """(wall s, CPU s, peak resident bytes of its largest process) of `mcc ARGUMENTS` in a process of its own."""
    script = (
        "import resource, sys, time; from mcc.cli.main import main; t = time.perf_counter(); code = main(sys.argv[1:]);"
        "u = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN);"
        # Not ru_maxrss of this process: exec carries over the peak of the process that started it.
        "peak = [int(x.split()[1]) for x in open('/proc/self/status') if x.startswith('VmHWM')] + [u[1].ru_maxrss];"
        "print(time.perf_counter() - t, sum(x.ru_utime + x.ru_stime for x in u), max(peak));"
        "sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], stdout=subprocess.PIPE, text=True, check=False, cwd=ROOT
    )
    if done.returncode:
        raise RuntimeError(f"mcc {' '.join(map(str, arguments))} failed")
    wall, seconds, peak = done.stdout.splitlines()[-1].split()
    return float(wall), float(seconds), int(peak) * 1024
