"""`mcc data run`: a pipeline declared in a TOML file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mcc.cli import console
from mcc.core.errors import UsageError, unknown

if TYPE_CHECKING:
    from mcc.data.pipeline import Pipeline
    from mcc.data.pipelines.run import PipelineReport, Runner

app = typer.Typer(rich_markup_mode="rich")

_EXECUTORS = ("local", "slurm", "ray")
_MACHINES = "More than one machine"


@app.command()
def run(
    pipeline: Annotated[Path, typer.Argument(metavar="PIPELINE.toml", help="The steps.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="DIR", help="Folder for all files \\[default: named like the pipeline]."),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Replace a variable of \\[vars].")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes; with --executor: shards at once.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, do nothing.")] = False,
    executor: Annotated[
        str | None,
        typer.Option(metavar="local|slurm|ray", help="Run through datatrove's executors.", rich_help_panel=_MACHINES),
    ] = None,
    tasks: Annotated[
        int | None, typer.Option(metavar="N", help="Shards of a step \\[default: workers].", rich_help_panel=_MACHINES)
    ] = None,
    as_json: console.JSON = False,
) -> None:
    """Run the steps of a pipeline; those are skipped whose inputs, settings and code have not changed.

    Started again after it was stopped or killed, it goes on where it was. DIR/report.html shows the documents through
    all steps.

    Example: [cyan]mcc data run examples/wikipedia.toml --set dump='dumps/*.bz2' --out wiki --workers 8[/]

    Example: [cyan]mcc data run crawl.toml --executor slurm --tasks 200[/]
    """
    from mcc.data.pipeline import load
    from mcc.data.pipelines.run import run_pipeline, states

    if workers is not None and workers < 1:
        raise UsageError(f"--workers {workers} must be at least 1")
    if executor is not None and executor not in _EXECUTORS:
        raise unknown("executor", executor, _EXECUTORS)
    if tasks is not None and executor is None:
        raise UsageError("--tasks goes with --executor", "for one machine without datatrove: --workers N")
    if tasks is not None and tasks < 1:
        raise UsageError(f"--tasks {tasks} must be at least 1")
    loaded = load(pipeline, out, _variables(settings or []))
    runner = _runner(loaded, executor, workers, tasks)
    if dry_run:
        _show_plan(loaded, states(loaded), as_json)
        return
    try:
        report = run_pipeline(loaded, runner, console.reporter())
    finally:
        runner.close()
    if as_json:
        console.print_json(report)
        return
    _show(report)


def _variables(settings: list[str]) -> dict[str, str]:
    found = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name:
            raise UsageError(f"--set {setting!r} is not NAME=VALUE", "for example --set dump=enwiki.xml.bz2")
        found[name] = value
    return found


def _runner(pipeline: Pipeline, executor: str | None, workers: int | None, tasks: int | None) -> Runner:
    from mcc.data.pipelines.run import InProcess

    if executor is None:
        return InProcess(workers or 1)
    from mcc.data.pipelines.cluster import make_runner

    return make_runner(executor, pipeline.cluster, workers, tasks)


def _show_plan(pipeline: Pipeline, states: list[str], as_json: bool) -> None:
    rows: list[dict[str, Any]] = [
        {
            "step": f"{step.number}. {step.name}",
            "kind": step.stage,
            "reads": list(step.call.inputs),
            "writes": str(step.call.output),
            "state": state,
        }
        for step, state in zip(pipeline.steps, states, strict=True)
    ]
    if as_json:
        console.print_json(rows)
        return
    shown = [(row["step"], row["kind"], ", ".join(row["reads"]), row["writes"], row["state"]) for row in rows]
    console.table(str(pipeline.file), ["step", "kind", "reads", "writes", "state"], shown)


def _show(report: PipelineReport) -> None:
    from mcc.data.pipelines.page import tokens_of

    rows = []
    for step in report.steps:
        tokens, exact = tokens_of(step)
        about = None if tokens is None else f"{'' if exact else '~'}{tokens:,}"
        rows.append(
            (
                f"{step.number}. {step.name}",
                step.report["documents_in"],
                step.report["documents_out"],
                sum(step.report["rejected"].values()),
                step.profile["bytes"] if step.profile else None,
                about,
                "done before" if step.cached else f"{step.report['seconds']:.1f} s",
                str(step.report["outputs"][0]) if step.report["outputs"] else "",
            )
        )
    columns = ["step", "documents in", "out", "rejected", "bytes of text", "tokens", "time", "wrote"]
    console.table(report.file, columns, rows)
    typer.echo(f"{report.seconds:.1f} s; see {report.page}")
