"""A comparison's table: as JSON, as Markdown, and as cells for the terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mcc.core.files import write_text

MODEL_PARALLEL = {"TP": ("tp.forward", "tp.backward"), "PP": ("pp.forward", "pp.backward")}
GROUPS = {**MODEL_PARALLEL, "DP": ("dp.grad",), "embedding": ("embedding",)}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One setting.

    Args:
        compress: values of `--compress`. codecs: what presets among them stand for. command: the arguments of `mcc`.
        figures: what its model was scored at.
        run: the run in figures (`run.summary`); empty when it failed.
        step_s: seconds a step by rate of the links, unshaped first; None where no step ended in time.
        error: why there is no run.
    """

    name: str
    compress: Sequence[str]
    codecs: Sequence[str] = ()
    command: Sequence[str] = ()
    figures: Mapping[str, float] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)
    step_s: Mapping[str, float | None] = field(default_factory=dict)
    error: str | None = None

    @property
    def wire_bytes(self) -> Mapping[str, int]:
        """Bytes that all ranks sent a step at the end of the run, by site."""
        found: Mapping[str, int] = self.run.get("last_wire_bytes", {})
        return found

    def sent(self, sites: Sequence[str]) -> int:
        """Bytes a step at these sites."""
        return sum(self.wire_bytes.get(site, 0) for site in sites)


@dataclass(frozen=True, kw_only=True)
class Report:
    """A comparison.

    Args:
        layout: such as `tp=2,pp=2`. size: of `PaperConfig`. no_links: why no steps were timed on links, if none were.
        goodput_mbit: what one connection carried at each rate of the links.
    """

    paper: str
    source: str
    layout: str
    size: str
    quality: str
    rows: Sequence[Row]
    no_links: str | None = None
    goodput_mbit: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)

    @property
    def dense(self) -> Row | None:
        """The run that the others are measured against; None when it is not there."""
        return next((row for row in self.rows if row.run), None) if self.rows and self.rows[0].run else None

    def groups(self) -> dict[str, tuple[str, ...]]:
        """Groups of sites that sent something, and of those the ones of any run."""
        return {name: sites for name, sites in GROUPS.items() if any(row.sent(sites) for row in self.rows)}

    def table(self) -> tuple[list[str], list[list[Any]]]:
        """Columns and rows. Bytes are MB a step of all ranks; times are milliseconds."""
        figures = list(dict.fromkeys(title for row in self.rows for title in row.figures))
        groups, rates = self.groups(), list(dict.fromkeys(rate for row in self.rows for rate in row.step_s))
        sites = tuple(site for sites in groups.values() for site in sites)
        columns = ["setting", *figures, "training loss", *(f"{name}, MB" for name in groups), "x fewer bytes"]
        columns += ["memory, MB", *(f"step at {rate}, ms" for rate in rates), "note"]
        rows = []
        for row in self.rows:
            fewer = None
            if self.dense is not None and row.sent(sites):
                fewer = round(self.dense.sent(sites) / row.sent(sites), 2)
            memory = row.run.get("memory_bytes")
            rows.append(
                [
                    row.name,
                    *(row.figures.get(title) for title in figures),
                    row.run.get("train_loss"),
                    *(row.sent(group) / 1e6 if row.run else None for group in groups.values()),
                    fewer,
                    max(memory) / 1e6 if memory else None,
                    *(_ms(row.step_s.get(rate)) for rate in rates),
                    row.error,
                ]
            )
        filled = [i for i in range(len(columns)) if i == 0 or any(row[i] is not None for row in rows)]
        return [columns[i] for i in filled], [[row[i] for i in filled] for row in rows]


def write(report: Report, folder: Path) -> list[Path]:
    """Write `PAPER.json` and `PAPER.md`; their paths."""
    table, page = folder / f"{report.paper}.json", folder / f"{report.paper}.md"
    write_text(table, json.dumps(asdict(report), indent=1) + "\n")
    write_text(page, markdown(report))
    return [table, page]


def markdown(report: Report) -> str:
    """The table as a page."""
    columns, rows = report.table()
    lines = [f"# {report.paper}", "", f"{report.source}. Layout {report.layout}, size {report.size}.", ""]
    lines.append("Made by `mcc bench paper`; bytes are those of all ranks a step at the run's end, memory is the")
    lines += ["fullest rank's process.", ""]
    if report.no_links:
        lines += [f"No step times on links: {report.no_links}.", ""]
    if report.goodput_mbit:
        measured = ", ".join(f"{rate}: {mbit:,.0f}" for rate, mbit in report.goodput_mbit.items())
        lines += [f"Mbit/s that one connection carried on the links: {measured}.", ""]
    lines.append(f"| {' | '.join(columns)} |")
    lines.append(f"| --- | {' | '.join('---:' for _ in columns[1:])} |")
    lines += [f"| {' | '.join(cell(value) for value in row)} |" for row in rows]
    lines += ["", "What is compressed:", ""]
    lines += [f"- {row.name}: {' '.join(f'`{text}`' for text in row.codecs) or 'nothing'}" for row in report.rows]
    commands = [row for row in report.rows if row.command]
    if commands:
        lines += ["", "The first run; the others have their `--compress` at its end:", ""]
        lines.append(f"    mcc {' '.join(commands[0].command)}")
    return "\n".join(lines) + "\n"


def cell(value: Any) -> str:
    """A cell's text.

    >>> [cell(value) for value in (None, 0.12345678, 3.25, 12345.6, "a|b")]
    ['', '0.1235', '3.25', '12,346', 'a/b']
    """
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"
    return str(value).replace("|", "/").replace("\n", " ")


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(1000 * seconds, 1)
