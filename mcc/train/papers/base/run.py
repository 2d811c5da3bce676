"""One setting: an ordinary `mcc train`, watched through its metrics; what it found is kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import fmean, median
from typing import Any

from mcc.core.config import settings
from mcc.core.errors import MccError
from mcc.core.events import Reporter
from mcc.core.files import remove, write_text
from mcc.train import metrics
from mcc.train.config import TrainConfig
from mcc.train.papers.base.paper import Values

PROGRAM = (sys.executable, "-m", "mcc")
_KEPT, _LOG, _RUN = "result.json", "log.txt", "run"
_LOOK_S = 0.2
_SAVING_S = 60.0  # so long a run that is told to stop may take to save
_POINTS = 100  # of a curve, at most
_LAST = 0.1  # the part of a run whose losses and bytes stand for its end


def words(values: Values, compress: Sequence[str], ranks: int) -> list[str]:
    """The arguments of `mcc` for a run.

    >>> words({"run.train_iters": 8, "finetune.enabled": True}, ["pp.forward=quantize"], 2)
    ['train', '--train-iters', '8', '--finetune', '--nproc', '2', '--compress', 'pp.forward=quantize']
    """
    known = {setting.path: setting for setting in settings(TrainConfig)}
    found = ["train"]
    for path, value in values.items():
        flag = known[path].metadata.get("flag", f"--{known[path].name.replace('_', '-')}")
        if isinstance(value, bool):
            found.append(flag if value else f"--no-{flag.removeprefix('--')}")
        else:
            found += [flag, f"{value:g}" if isinstance(value, float) else str(value)]
    return [*found, "--nproc", str(ranks), *(word for text in compress for word in ("--compress", text))]


def kept(folder: Path, arguments: Sequence[str], codecs: Sequence[str]) -> dict[str, Any] | None:
    """What a run with these arguments and codecs found earlier; None when there was none that ended well."""
    try:
        there = json.loads((folder / _KEPT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    found: dict[str, Any] = there["found"]
    same = (there["arguments"], there.get("codecs")) == (list(arguments), list(codecs))
    return found if same else None


def train(
    name: str,
    arguments: Sequence[str],
    codecs: Sequence[str],
    steps: int,
    folder: Path,
    limit_s: float,
    reporter: Reporter,
    program: Sequence[str] = PROGRAM,
) -> dict[str, Any]:
    """Run `mcc` with `arguments`, and keep what it found in `folder`. Its checkpoints are deleted.

    Args:
        name: shown beside the progress.
        codecs: what presets among the arguments stand for.
        steps: that the run will take.
        limit_s: seconds after which it is ended.

    Raises:
        MccError: it failed, or took too long.
    """
    run, log = folder / _RUN, folder / _LOG
    remove(folder)
    folder.mkdir(parents=True)
    began = time.monotonic()
    with log.open("wb") as out, reporter.task(name, steps, "steps") as task:
        process = subprocess.Popen(
            [*program, *arguments, "--save", str(run)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={"OMP_NUM_THREADS": "1", **os.environ},  # the ranks share the machine's cores
        )
        try:
            done = 0
            while process.poll() is None and time.monotonic() - began < limit_s:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_LOOK_S)
                now = sum("loss" in line for line in metrics.read(run))
                task.advance(now - done)
                done = now
            late = process.poll() is None
        finally:
            _end(process)
    if late:
        raise MccError(f"{name}: ended after {limit_s:g} s at step {done} of {steps}", "--limit, or fewer --steps")
    if process.returncode:
        raise MccError(f"{name}: {_told(log)}", f"all of it in {log}")
    found = summary(metrics.read(run), time.monotonic() - began)
    for checkpoint in run.glob("iter_*"):
        remove(checkpoint)
    write_text(folder / _KEPT, json.dumps({"arguments": list(arguments), "codecs": list(codecs), "found": found}))
    return found


def summary(lines: Sequence[Mapping[str, Any]], seconds: float) -> dict[str, Any]:
    """A run in figures, from the lines of its metrics.

    `wire_bytes`: sent a step by all ranks, by site; `last_wire_bytes`: the same at the run's end, when warm-up is over.
    `memory_bytes`: the most that each rank used.
    """
    steps = [line for line in lines if "loss" in line]
    last = steps[-max(1, round(_LAST * len(steps))) :]
    scores = metrics.scores(lines)
    memory = [line["memory_bytes"] for line in steps if "memory_bytes" in line]
    shown = steps[:: -(-len(steps) // _POINTS)]
    return {
        "steps": len(steps),
        "train_loss": fmean(line["loss"] for line in last),
        "scores": scores,
        "curve": [[line["step"], line["loss"]] for line in shown],
        "wire_bytes": metrics.mean_bytes(steps),
        "last_wire_bytes": metrics.mean_bytes(last),
        "memory_bytes": [max(rank) for rank in zip(*memory, strict=True)],
        "step_time_s": median(line["step_time_s"] for line in steps),
        "seconds": round(seconds, 1),
    }


def _end(process: subprocess.Popen[bytes]) -> None:
    """Stop a run that is still there, and its ranks with it."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_SAVING_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _told(log: Path) -> str:
    """What a failed run said last: its error's line, or else the last one."""
    found = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in found if line.startswith("error: ")]
    return (errors or found or ["it said nothing"])[-1].removeprefix("error: ")
