"""How long `mcc --help` takes against `python -c "import typer"`: at most 3x."""

from __future__ import annotations

import json

from mcc.cli.bench import measure_startup


def main() -> None:
    found = measure_startup(runs=21)
    row = {
        "what": f"mcc --help / import typer ({found['typer_s'] * 1000:.0f} ms)",
        "value": round(found["ratio"], 2),
        "unit": "x",
        "bar": f"<= {found['bar']:g}",
        "ok": found["ok"],
    }
    bare = {"what": "bare typer application / import typer", "value": round(found["bare_s"] / found["typer_s"], 2)}
    print(json.dumps([row, {**bare, "unit": "x"}]))


if __name__ == "__main__":
    main()
