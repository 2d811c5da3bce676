"""`mcc bench paper`: a paper's comparison, run again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mcc.cli.console import JSON, print_json, reporter, table
from mcc.cli.options import flags
from mcc.core.config import resolve
from mcc.core.errors import MccError, UsageError
from mcc.core.signals import ended_by_signals
from mcc.train.papers.base.config import PaperConfig

EPILOG = r"""Examples:

mcc bench paper optimus-cc --plot

mcc bench paper mcbench --models models --data data --only q2 --only t1 --size quick

mcc bench paper --list

Every setting is an ordinary `mcc train` of several ranks on this machine. Runs that are finished are kept in --work.
Step times on links need Linux and root.
"""


@flags(PaperConfig)
def paper(
    *,
    name: Annotated[str | None, typer.Argument(metavar="PAPER", help="mcbench, optimus-cc or aq-sgd.")] = None,
    plot: Annotated[bool, typer.Option("--plot", help="Draw OUT/PAPER.png, too.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="Print the papers with their settings, and stop.")] = False,
    json: JSON = False,
    settings: dict[str, Any],
) -> None:
    """Run a paper's comparison again on real data, sized for 2 cores; write a table (JSON, Markdown) and a plot.

    A setting that fails is told of and does not end the others; the exit code is 1 then.
    """
    config = resolve(PaperConfig, None, settings)
    from mcc.train.papers.base.paper import papers

    if listed:
        _list(json)
        return
    if name is None:
        raise UsageError("which paper?", f"one of {', '.join(papers.names())}")
    from mcc.train.papers.base.bench import rerun
    from mcc.train.papers.base.plot import draw

    with ended_by_signals():
        report = rerun(name, papers.get(name)(), config, reporter())
    if plot:
        draw(report, Path(config.out) / f"{name}.png")
    if json:
        print_json(report)
    else:
        table(f"{name}: {report.source}", *report.table())
        if report.no_links:
            print(f"No step times on links: {report.no_links}.")
    failed = [row.name for row in report.rows if row.error]
    if failed:
        raise MccError(f"{len(failed)} of {len(report.rows)} settings failed: {', '.join(failed)}")


def _list(json: bool) -> None:
    from mcc.train.papers.base.paper import papers

    found = [(name, cls.layout, setting) for name, cls in papers.all() for setting in cls().settings()]
    if json:
        print_json(
            [
                {"paper": name, "layout": layout, "setting": setting.name, "compress": setting.compress}
                for name, layout, setting in found
            ]
        )
        return
    rows = [[name, layout, s.name, " ".join(s.compress), "full" if s.full else ""] for name, layout, s in found]
    table("Papers", ["paper", "layout", "setting", "--compress", "size"], rows)
