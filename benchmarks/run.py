"""Run every benchmark beside this file and print one table; exit 1 when one misses its bar or fails.

A benchmark is a script `bench_<name>.py` whose last line on stdout is a JSON list of rows: `what`, `value`, `unit`,
and, where there is a bar to meet, `bar` (text) and `ok`.

    python benchmarks/run.py            every one
    python benchmarks/run.py startup    some, by name
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from mcc.cli.console import table
from mcc.core.errors import nearest

HERE = Path(__file__).parent


def main(wanted: list[str]) -> int:
    scripts = {path.stem.removeprefix("bench_"): path for path in sorted(HERE.glob("bench_*.py"))}
    for name in wanted:
        if name not in scripts:
            print(f"error: unknown benchmark {name!r}; did you mean {nearest(name, scripts)!r}?", file=sys.stderr)
            return 2
    rows, failed = [], False
    for name in wanted or scripts:
        print(f"running {name} ...", file=sys.stderr, flush=True)
        for row in _run(scripts[name]):
            failed |= row.get("ok") is False
            met = {True: "yes", False: "NO", None: None}[row.get("ok")]
            rows.append((name, row["what"], row.get("value"), row.get("unit"), row.get("bar"), met))
    table("Benchmarks", ("benchmark", "what", "value", "unit", "bar", "met"), rows)
    return 1 if failed else 0


def _run(script: Path) -> list[dict[str, Any]]:
    done = subprocess.run([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, check=False)
    try:
        rows: list[dict[str, Any]] = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        rows = [{"what": "gave no rows", "ok": False}]
    if done.returncode and not any(row.get("ok") is False for row in rows):
        rows.append({"what": f"failed with exit code {done.returncode}", "ok": False})
    return rows


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
