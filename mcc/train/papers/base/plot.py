"""A comparison as a picture: quality against bytes, training losses, and step times by the links' rate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcc.core.files import atomic_path
from mcc.train.papers.base.report import Report, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7b8794")
_SHAPES = (("o", "-"), ("s", "--"), ("^", ":"))  # of points and lines: the next when the colours begin again
_SMOOTH = 8  # neighbouring points of a curve that are averaged


def draw(report: Report, path: Path) -> None:
    """Write the picture to `path`; its ending names the form (png, svg).

    Raises:
        MccError: it cannot be written there.
    """
    from matplotlib.figure import Figure

    ran = [row for row in report.rows if row.run]
    panels = [_quality, _losses, *([_times] if any(row.step_s for row in report.rows) else [])]
    figure = Figure(figsize=(5.6 * len(panels), 4.6), layout="constrained", facecolor="white")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        panel(axes, report, ran)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{report.paper}: {report.layout}, {report.source}")
    curves = figure.axes[1].get_lines()
    figure.legend(curves, [row.name for row in ran], loc="outside lower center", frameon=False, ncols=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix.lower().removeprefix("."), dpi=110)


def _quality(axes: Axes, report: Report, ran: list[Row]) -> None:
    """The figure that counts against the bytes of all sites."""
    sites = tuple(site for group in report.groups().values() for site in group)
    for i, row in enumerate(ran):
        if report.quality in row.figures:
            place = (row.sent(sites) / 1e6, row.figures[report.quality])
            axes.plot(*place, **_style(i))
    axes.set_xlim(left=0)
    axes.set_xlabel("MB sent a step by all ranks")
    axes.set_ylabel(report.quality)


def _losses(axes: Axes, report: Report, ran: list[Row]) -> None:
    for i, row in enumerate(ran):
        steps, losses = zip(*row.run["curve"], strict=True)
        axes.plot(steps, _smooth(losses), linewidth=2.4 if i == 0 else 1.2, markevery=[], **_style(i))
    axes.set_xlabel("step")
    axes.set_ylabel("training loss")


def _times(axes: Axes, report: Report, ran: list[Row]) -> None:
    """Speed by rate, of the dense run's on links that are not shaped."""
    rates = list(dict.fromkeys(rate for row in report.rows for rate in row.step_s))
    base = report.rows[0].step_s.get(rates[0])
    for i, row in enumerate(ran):
        heights = [_speed(base, row.step_s.get(rate)) for rate in rates]
        if any(height == height for height in heights):
            axes.plot(rates, heights, **_style(i))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("rate of every rank's link")
    axes.set_ylabel("speed, of dense on unshaped links" if base else "steps a second")


def _speed(base: float | None, step_s: float | None) -> float:
    return float("nan") if not step_s else (base or 1.0) / step_s


def _smooth(values: Any) -> list[float]:
    return [sum(part) / len(part) for i in range(len(values)) for part in [values[max(0, i - _SMOOTH + 1) : i + 1]]]


def _style(index: int) -> dict[str, Any]:
    """Of a setting, in every panel."""
    cycle, colour = divmod(index, len(_COLOURS))
    marker, line = _SHAPES[cycle % len(_SHAPES)]
    return {"color": _COLOURS[colour], "marker": marker, "linestyle": line}
