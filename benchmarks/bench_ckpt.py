"""Checkpoints: the speed of conversions against a copy of the same bytes, and their peak memory for a model of 10 GB.

Runs the scripts in `benchmarks/ckpt`; each can be run alone. The second takes 22 GB of disk while it runs.

    python benchmarks/bench_ckpt.py           both
    python benchmarks/bench_ckpt.py speed     one
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent / "ckpt"
_SCRIPTS = ("speed", "memory")


def main(wanted: list[str]) -> int:
    rows: list[dict[str, Any]] = []
    for name in wanted or _SCRIPTS:
        if name not in _SCRIPTS:
            print(f"error: no such benchmark: {name}; there are {', '.join(_SCRIPTS)}", file=sys.stderr)
            return 2
        print(f"running ckpt/{name} ...", file=sys.stderr, flush=True)
        done = subprocess.run(
            [sys.executable, str(HERE / f"{name}.py")], stdout=subprocess.PIPE, text=True, check=False
        )
        if done.returncode:
            rows.append({"what": f"{name}: failed with exit code {done.returncode}", "ok": False})
        else:
            rows += json.loads(done.stdout.strip().splitlines()[-1])
    print(json.dumps(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
