"""Training: its speed beside transformers' own models, and the memory and balance of ring attention.

Runs the scripts in `benchmarks/train` that give rows, each in a process of its own; each can be run alone and says in
its first lines what it compares with.

    python benchmarks/bench_train.py        all of them
    python benchmarks/bench_train.py ring   some
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent / "train"
_NO_ROWS = {"samples"}


def main(wanted: list[str]) -> int:
    scripts = {path.stem: path for path in sorted(HERE.glob("*.py")) if path.stem not in _NO_ROWS}
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
    print(json.dumps(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
