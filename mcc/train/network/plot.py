"""The speed of every run against the links' rate, as a picture."""

from __future__ import annotations

from pathlib import Path

from mcc.core.errors import UsageError
from mcc.core.files import atomic_path
from mcc.train.network.bench import FAST, SLOW, UNSHAPED, Report
from mcc.train.network.config import DENSE

_FORMS = (".png", ".svg", ".pdf")
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")


def check(path: Path) -> None:
    """Refuse a picture that could not be drawn, before anything is measured.

    Raises:
        UsageError: its ending names no form.
    """
    if path.suffix.lower() not in _FORMS:
        raise UsageError(f"--plot {path} has none of the endings {', '.join(_FORMS)}", "e.g. --plot network.png")


def draw(report: Report, path: Path) -> None:
    """Write the picture to `path`; its ending names the form (png, svg, pdf).

    Raises:
        MccError: it cannot be written there.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 4.6), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    rates = [timing.rate for timing in reversed(report.runs[0].timings)]
    for i, run in enumerate(report.runs):
        found = {timing.rate: timing.fraction for timing in run.timings}
        heights = [found[rate] or float("nan") for rate in rates]
        width, colour = 2.5 if run.name == DENSE else 1.8, _COLOURS[i % len(_COLOURS)]
        axes.plot(range(len(rates)), heights, marker="o", label=run.name, linewidth=width, color=colour)
    for height in (SLOW, FAST, 1.0):
        axes.axhline(height, color="#9aa5b1", linewidth=0.8, linestyle=":" if height < 1 else "-")
    axes.set_xticks(range(len(rates)), ["unshaped" if rate == UNSHAPED else rate for rate in rates])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("rate of every rank's link")
    axes.set_ylabel("speed, of dense on unshaped links")
    axes.set_title(f"{report.layout}: training speed by the links' rate")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False, fontsize="small")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix.lower().removeprefix("."), dpi=144)
