"""The data steps: speed against what they replace, memory over a corpus ten times as large, and a second worker.

Runs the scripts in `benchmarks/data`, each in a process of its own; each can be run alone and says in its first lines
what it compares with. Their ratios are of CPU time in one run. The corpus is Debian's documentation (see
`data/corpora.py`); where MCC_TEST_DATA names a folder with the dump, the vocabularies and LAMBADA, those are used.

    python benchmarks/bench_data.py             all of them: about half an hour
    python benchmarks/bench_data.py dedup wiki  some
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent / "data"
_SHARED = {"corpora", "measure", "steps", "wiki_reference"}


def main(wanted: list[str]) -> int:
    scripts = {path.stem: path for path in sorted(HERE.glob("*.py")) if path.stem not in _SHARED}
    rows: list[dict[str, Any]] = []
    for name in wanted or scripts:
        if name not in scripts:
            print(f"error: no such benchmark: {name}; there are {', '.join(scripts)}", file=sys.stderr)
            return 2
        print(f"running data/{name} ...", file=sys.stderr, flush=True)
        done = subprocess.run([sys.executable, str(scripts[name])], stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            rows.append({"what": f"{name}: failed with exit code {done.returncode}", "ok": False})
        else:
            rows += json.loads(done.stdout.strip().splitlines()[-1])
    print(json.dumps(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
