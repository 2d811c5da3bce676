"""`metrics.jsonl`: one line a step, and one a held-out evaluation."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
import torch.distributed as dist

from mcc.core.errors import MccError
from mcc.core.files import write_text
from mcc.train.compress.wire import SITES

NAME = "metrics.jsonl"
ORTHOGONALITY = "orthogonality.jsonl"


def total_bytes(sent: dict[str, int]) -> dict[str, int]:
    """The bytes by site that all ranks sent, without the sites that sent nothing. Collective, itself not counted."""
    vector = torch.tensor([sent.get(site, 0) for site in SITES], dtype=torch.int64)
    dist.all_reduce(vector)
    return {site: int(n) for site, n in zip(SITES, vector.tolist(), strict=True) if n}


def memory_by_rank(group: dist.ProcessGroup | None = None) -> list[int]:
    """The most bytes that each rank has used so far, in order of rank: on its GPU, or of its process. Collective."""
    mine = torch.tensor([peak_memory()])
    found = [torch.zeros_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(found, mine, group=group)
    return [int(value) for value in found]


def peak_memory() -> int:
    """The most bytes that this rank has used so far: tensors on its GPU, or without one its process's memory."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


class MetricsFile:
    """Appends lines to `RUN/metrics.jsonl`, or another. Continuing at `iteration` drops the lines after it."""

    def __init__(self, run: Path, iteration: int, name: str = NAME) -> None:
        self.path = run / name
        run.mkdir(parents=True, exist_ok=True)
        kept = [json.dumps(line) for line in read(run, name) if line["step"] <= iteration] if iteration else []
        write_text(self.path, "".join(f"{line}\n" for line in kept))

    def append(self, values: dict[str, Any]) -> None:
        """Add one line.

        Raises:
            MccError: the disk is full, or the file may not be written.
        """
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(values) + "\n")
        except OSError as error:
            raise MccError(f"cannot write {self.path}: {error.strerror}", "is the disk full?") from error


def read(run: Path, name: str = NAME) -> list[dict[str, Any]]:
    """The lines of a run's metrics; a torn last line, left by a killed run, is dropped."""
    path = run / name
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


def summary(run: Path) -> dict[str, Any]:
    """A finished run in a few numbers: last losses and scores, median speed, mean bytes a step by site."""
    lines = read(run)
    steps = [line for line in lines if "loss" in line]
    found = scores(lines)
    scored = found[-1] if found else {"heldout_loss": None}
    last = {key: value for key, value in scored.items() if key not in ("step", "epoch")}
    # The first step also builds the pipeline.
    times = [line["step_time_s"] for line in steps[1:]] or [line["step_time_s"] for line in steps]
    tokens = steps[-1]["tokens"] / steps[-1]["step"]
    measured = orthogonality(run)
    return {
        "steps": steps[-1]["step"],
        "final_train_loss": steps[-1]["loss"],
        **last,
        "tokens_per_s": tokens / median(times),
        "wire_bytes": mean_bytes(steps),
        "scores": found,
    } | ({"orthogonality": measured} if measured else {})


def mean_bytes(steps: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Bytes that all ranks sent a step, by site: the mean over lines of steps."""
    sites = sorted({site for line in steps for site in line["wire_bytes"]})
    return {site: round(fmean(line["wire_bytes"].get(site, 0) for line in steps)) for site in sites}


def orthogonality(run: Path) -> list[dict[str, Any]]:
    """`orthogonality.jsonl` by boundary and micro-batch, each value the mean over the steps; empty without the file.

    `cosine_size` is the mean of |cosine|: the cosines of steps could cancel out.
    """
    groups: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for line in read(run, ORTHOGONALITY):
        groups.setdefault((line["boundary"], line["microbatch"]), []).append(line)
    found = []
    for (boundary, microbatch), lines in sorted(groups.items()):
        cosines = [line["cosine"] for line in lines if line["cosine"] is not None]
        found.append(
            {
                "boundary": boundary,
                "microbatch": microbatch,
                "steps": len(lines),
                "cosine": fmean(cosines) if cosines else None,
                "cosine_size": fmean(map(abs, cosines)) if cosines else None,
                **{key: fmean(line[key] for line in lines) for key in ("mean_error", "mean_difference")},
            }
        )
    return found


def scores(lines: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the model was scored at on the way: a step, and the loss and metrics of each set of held-out samples.

    >>> scores([{"step": 2, "loss": 0.1}, {"step": 2, "a_loss": 0.2}, {"step": 2, "b_loss": 0.3, "b_f1": 0.5}])
    [{'step': 2, 'a_loss': 0.2, 'b_loss': 0.3, 'b_f1': 0.5}]
    """
    found: dict[int, dict[str, Any]] = {}
    for line in lines:
        if "loss" not in line and any(key.endswith(("_loss", "_loss_codec")) for key in line):
            found.setdefault(line["step"], {}).update(line)
    return list(found.values())
