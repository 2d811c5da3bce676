"""`metrics.jsonl`: one line a step, and one a held-out evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from mcc.core.files import write_text

NAME = "metrics.jsonl"
# The order of the bytes in the summed vector: the same on every rank.
SITES = ("pp.forward", "pp.backward", "tp.forward", "tp.backward", "tp.vocab", "dp.grad", "embedding", "norm")


def total_bytes(sent: dict[str, int]) -> dict[str, int]:
    """The bytes by site that all ranks sent, without the sites that sent nothing. Collective, itself not counted."""
    unknown = set(sent) - set(SITES)
    assert not unknown, f"sites without a column: {unknown}"
    vector = torch.tensor([sent.get(site, 0) for site in SITES], dtype=torch.int64)
    dist.all_reduce(vector)
    return {site: int(n) for site, n in zip(SITES, vector.tolist(), strict=True) if n}


class MetricsFile:
    """Appends lines to `RUN/metrics.jsonl`. Continuing at `iteration` drops the lines after it."""

    def __init__(self, run: Path, iteration: int) -> None:
        self.path = run / NAME
        run.mkdir(parents=True, exist_ok=True)
        kept = [json.dumps(line) for line in read(run) if line["step"] <= iteration] if iteration else []
        write_text(self.path, "".join(f"{line}\n" for line in kept))

    def append(self, values: dict[str, Any]) -> None:
        """Add one line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")


def read(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics; a torn last line, left by a killed run, is dropped."""
    path = run / NAME
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines
