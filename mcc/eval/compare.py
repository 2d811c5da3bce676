"""Scores of several checkpoints side by side, as a table and as a plot."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcc.core.errors import MccError, UsageError
from mcc.core.files import atomic_path

RESULTS = "results.json"
_COLUMNS = 3  # panels beside each other


@dataclass(frozen=True, kw_only=True)
class Line:
    """One metric of one task.

    Args:
        values: one for each checkpoint; None where it was not scored.
        stderrs: their standard errors, where there are some.
        higher_is_better: None where it is not known.
        best: index of the best value; None where a value is missing, all are alike, or nobody knows which is
            better.
        distance: the best and the worst value's difference by the standard error of it, as if the documents were
            other ones; None where there is no standard error.
    """

    task: str
    metric: str
    values: tuple[float | None, ...]
    stderrs: tuple[float | None, ...]
    higher_is_better: bool | None
    best: int | None
    distance: float | None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Every metric that at least one of the checkpoints has."""

    names: tuple[str, ...]
    lines: tuple[Line, ...]


def is_scored(path: str | Path) -> bool:
    """Whether `path` is the folder that `mcc eval zero-shot --out` wrote, or its results.json."""
    found = Path(path)
    return (found / RESULTS).is_file() or (found.name == RESULTS and found.is_file())


def read_results(path: str | Path) -> dict[str, Any]:
    """What `mcc eval zero-shot --out` wrote.

    Raises:
        MccError: it is no such file.
    """
    file = Path(path) / RESULTS if Path(path).is_dir() else Path(path)
    try:
        values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        for task in values["results"].values():
            for metric in task["metrics"].values():
                float(metric["value"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise MccError(f"{file} has no scores: {error!r}", "write them with mcc eval zero-shot --out") from error
    return values


def compare(names: Sequence[str], reports: Sequence[dict[str, Any]]) -> Comparison:
    """Put reports (results.json's contents) side by side.

    Raises:
        UsageError: fewer than two.
    """
    if len(reports) < 2:
        raise UsageError("a comparison needs two or more", "mcc eval compare A B ...")
    found: dict[tuple[str, str], None] = {}
    for report in reports:
        for task, score in report["results"].items():
            found.update(((task, metric), None) for metric in score["metrics"])
    return Comparison(names=tuple(names), lines=tuple(_line(task, metric, reports) for task, metric in found))


def _line(task: str, metric: str, reports: Sequence[dict[str, Any]]) -> Line:
    entries = [report["results"].get(task, {}).get("metrics", {}).get(metric) for report in reports]
    values = tuple(None if entry is None else float(entry["value"]) for entry in entries)
    stderrs = tuple(None if entry is None else entry.get("stderr") for entry in entries)
    higher = next((entry.get("higher_is_better") for entry in entries if entry is not None), None)
    best = distance = None
    there = [value for value in values if value is not None]
    if len(there) == len(values) and higher is not None:
        order = sorted(range(len(there)), key=lambda i: there[i], reverse=bool(higher))
        first, worst = order[0], order[-1]
        best = first if there[first] != there[worst] else None
        a, b = stderrs[first], stderrs[worst]
        if a is not None and b is not None and math.hypot(a, b) > 0:
            distance = abs(there[first] - there[worst]) / math.hypot(a, b)
    return Line(
        task=task,
        metric=metric,
        values=values,
        stderrs=stderrs,
        higher_is_better=higher,
        best=best,
        distance=distance,
    )


def image_kind(file: str | Path) -> str:
    """The format that the name of an image asks for.

    Raises:
        UsageError: it is none of .png, .svg and .pdf.
    """
    kind = Path(file).suffix.lower().removeprefix(".")
    if kind not in ("png", "svg", "pdf"):
        raise UsageError(f"--plot {file}: no image of the kind {kind!r}", "a name that ends in .png, .svg or .pdf")
    return kind


def plot(comparison: Comparison, file: str | Path) -> None:
    """Bars with standard errors, a panel for each metric of each task, as the image `file` (.png, .svg or .pdf).

    Raises:
        MccError: it cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines, names = comparison.lines, comparison.names
    if not lines:
        raise MccError("there is no score to draw", "score a task: mcc eval zero-shot CKPT --tasks NAME --out DIR")
    kind = image_kind(file)
    columns = min(_COLUMNS, len(lines))
    rows = -(-len(lines) // columns)
    figure = Figure(figsize=(3.4 * columns, 0.9 + rows * (1.0 + 0.32 * len(names))), layout="constrained")
    FigureCanvasAgg(figure)
    for index, line in enumerate(lines):
        panel = figure.add_subplot(rows, columns, index + 1)
        there = [i for i, value in enumerate(line.values) if value is not None]
        errors = [line.stderrs[i] or 0.0 for i in there]
        colours = ["#1f77b4" if i == line.best else "#9ecae1" for i in there]
        panel.barh(
            there, [line.values[i] or 0.0 for i in there], xerr=errors, color=colours, ecolor="#444444", capsize=2
        )
        panel.set_yticks(range(len(names)), names)
        panel.set_ylim(len(names) - 0.4, -0.6)
        arrow = {True: " (higher is better)", False: " (lower is better)", None: ""}[line.higher_is_better]
        panel.set_title(f"{line.task}: {line.metric}{arrow}", fontsize=9)
    with atomic_path(file) as path:
        figure.savefig(path, format=kind, dpi=150)
