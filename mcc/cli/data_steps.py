"""What the commands of `mcc data` share: their common options, and how a step's report is shown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mcc.cli import console

if TYPE_CHECKING:
    from mcc.data.base.step import StepReport

Inputs = Annotated[list[Path], typer.Argument(metavar="IN...", help="Files to read, in order.", show_default=False)]
Output = Annotated[Path, typer.Option("-o", "--output", metavar="OUT", help="File to write; it appears when whole.")]
Rejects = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Where rejected documents go \\[default: OUT.rejects.jsonl].")
]
_READING = "Reading"
TextKey = Annotated[
    str | None, typer.Option("--text-key", help="Key that holds the text \\[default: text].", rich_help_panel=_READING)
]
MaxErrors = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="End with an error when more lines are bad \\[default: 0].", rich_help_panel=_READING
    ),
]
OnError = Annotated[
    str | None,
    typer.Option(
        metavar="reject|fail", help="Set bad lines aside, or stop \\[default: reject].", rich_help_panel=_READING
    ),
]
Seed = Annotated[int | None, typer.Option(help="Seed \\[default: 1234].")]
Workers = Annotated[int | None, typer.Option(help="Processes \\[default: 1].")]


def given(**values: Any) -> dict[str, Any]:
    """The options that stand on the command line; the others keep the default of the configuration."""
    return {name: value for name, value in values.items() if value is not None}


def read(keys: tuple[str, ...] | None, on_error: str | None, max_errors: int | None) -> dict[str, Any]:
    return given(keys=keys, on_error=on_error, max_errors=max_errors)


def words(values: list[str] | None) -> tuple[str, ...] | None:
    """`a,b` and repeated options are the same list."""
    if values is None:
        return None
    return tuple(word.strip() for value in values for word in value.split(",") if word.strip())


def show(report: StepReport, as_json: bool, *rows: tuple[str, Any]) -> None:
    """The report of a step: JSON, or a table of what it read, what became of it, and where that is.

    Raises:
        MccError: more lines were set aside than the user tolerates.
    """
    from mcc.data.base.job import require_few_errors

    if as_json:
        console.print_json(report)
        require_few_errors(report)
        return
    shown: list[tuple[str, Any]] = [("documents in", report.documents_in), *rows]
    shown += [(f"rejected: {reason}", count) for reason, count in report.rejected.items()]
    if report.bad_lines:
        shown.append(("bad lines", report.bad_lines))
    shown.append(("seconds", report.seconds))
    shown += [("wrote", path) for path in report.outputs]
    console.table(report.step, ["", ""], [(name, console.cell(value)) for name, value in shown])
    require_few_errors(report)


def kept(report: StepReport) -> list[tuple[str, Any]]:
    return [
        ("documents out", report.documents_out),
        ("characters in", report.chars_in),
        ("characters out", report.chars_out),
    ]
