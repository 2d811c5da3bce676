"""Training: speed beside transformers' own models, the engine's own time, and memory.

Runs the scripts in `benchmarks/train` that need no data, each in a process of its own, and prints a table; each can be
run alone and says in its first lines what it measures. Exit 1 when one misses its bar or fails.

    python benchmarks/bench_train.py        all of them: about 15 minutes
    python benchmarks/bench_train.py ring   some
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from mcc.cli.console import table

HERE = Path(__file__).parent / "train"
_OTHERS = {"peak", "ranks", "finetune"}  # shared code, and runs on real weights


def main(wanted: list[str]) -> int:
    scripts = {path.stem: path for path in sorted(HERE.glob("*.py")) if path.stem not in _OTHERS}
    rows: list[dict[str, Any]] = []
    for name in wanted or scripts:
        if name not in scripts:
            print(f"error: no such benchmark: {name}; there are {', '.join(scripts)}", file=sys.stderr)
            return 2
        print(f"running train/{name} ...", file=sys.stderr, flush=True)
        done = subprocess.run([sys.executable, str(scripts[name])], stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            rows.append({"what": f"{name}: failed with exit code {done.returncode}", "ok": False})
        else:
            rows += json.loads(done.stdout.strip().splitlines()[-1])
    met = {True: "yes", False: "NO"}
    cells = [[row["what"], *map(row.get, ("value", "unit", "bar")), met.get(row.get("ok", ""))] for row in rows]
    table("Training", ["what", "value", "unit", "bar", "met"], cells)
    print(json.dumps(rows))
    return 1 if any(row.get("ok") is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
