"""How the command line shows things: results on stdout (a table or JSON), progress and warnings on stderr."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mcc.core import ranks
from mcc.core.events import SILENT, Reporter, Silent, Task

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

JSON = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

# Where stdout is no terminal nothing should be cut or folded: a reader (grep, a file) has no width.
_UNBOUNDED_COLUMNS = 1000
_BYTES = ("B", "kB", "MB", "GB", "TB")


def reporter() -> Reporter:
    """Where the libraries' events go: bars and notes on a terminal, else warnings only; rank 0 only.

    Outside a terminal (a pipe, a log file) there are no bars and no notes, so a command that succeeds writes
    nothing to stderr unless it has something to warn of.
    """
    here = ranks.from_environment()
    if here is not None and here.rank != 0:
        return SILENT
    return RichReporter() if sys.stderr.isatty() else Quiet()


def print_json(value: Any) -> None:
    """Print `value` as JSON on stdout. Dataclasses become objects, paths strings, NaN and infinities null."""
    sys.stdout.write(json.dumps(_json_value(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    sys.stdout.flush()


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table on stdout. A column of numbers is aligned to the right; None is an empty cell.

    Without column names (all are empty) there is no line for them.
    """
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    cells = [list(row) for row in rows]
    shown = Table(box=None, padding=(0, 3, 0, 0), pad_edge=False, show_header=any(columns))
    for index, column in enumerate(columns):
        values = [row[index] for row in cells if row[index] is not None]
        numeric = bool(values) and all(isinstance(value, (int, float)) for value in values)
        shown.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        shown.add_row(*(Text(cell(value)) for value in row))
    everything = (Text(title, "bold"), Padding(shown, (0, 0, 0, 1), expand=False))
    if sys.stdout.isatty():
        Console(file=sys.stdout).print(*everything)
        return
    # A pipe or a file gets no spaces behind the cells.
    text = io.StringIO()
    Console(file=text, width=_UNBOUNDED_COLUMNS).print(*everything)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in text.getvalue().splitlines()))


def cell(value: Any) -> str:
    """The text of a table's cell: thousands are separated, floats have four significant digits.

    >>> [cell(value) for value in (None, True, 1234567, 0.123456, 1.5e-7, "x")]
    ['', 'yes', '1,234,567', '0.1235', '1.5e-07', 'x']
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"
    return str(value)


def count(done: float, total: float | None = None, unit: str = "") -> str:
    """How much of something is done, for a progress bar; bytes (unit `B`) in the total's own power of 1000.

    >>> count(1200, 5000, "docs"), count(1200, None, "docs"), count(2.5e9, 1.03e10, "B")
    ('1,200/5,000 docs', '1,200 docs', '2.5/10.3 GB')
    """
    digits = 0
    if unit == "B":
        power = min(int(math.log10(max(total or done, 1)) / 3), len(_BYTES) - 1)
        unit, digits = _BYTES[power], min(power, 1)
        done, total = done / 1000**power, None if total is None else total / 1000**power
    of = "" if total is None else f"/{total:,.{digits}f}"
    return f"{done:,.{digits}f}{of} {unit}".rstrip()


class Quiet(Silent):
    """Drops progress, prints warnings: for stderr that is not a terminal."""

    def warn(self, text: str) -> None:
        print(f"warning: {text}", file=sys.stderr, flush=True)


class RichReporter:
    """Progress bars on a terminal; notes and warnings scroll above them."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._open_tasks = 0

    @contextmanager
    def task(self, label: str, total: float | None = None, unit: str = "") -> Iterator[Task]:
        """Show a bar (or a spinner, when `total` is unknown) while the block runs; tasks may be nested."""
        progress = self._progress or _progress()
        self._progress = progress
        if self._open_tasks == 0:
            progress.start()
        self._open_tasks += 1
        handle = progress.add_task(label, total=total, unit=unit, text="")
        try:
            yield _RichTask(progress, handle)
            if total is None:  # now it is known
                progress.update(handle, total=progress.tasks[progress.task_ids.index(handle)].completed)
        finally:
            self._open_tasks -= 1
            if self._open_tasks == 0:
                progress.stop()
                self._progress = None  # the finished bars stay on the screen; later tasks start below them

    def note(self, text: str) -> None:
        """Print a line above the bars."""
        self._print(text)

    def warn(self, text: str) -> None:
        """Print a line above the bars, marked as a warning."""
        self._print(f"warning: {text}", "yellow")

    def _print(self, text: str, style: str | None = None) -> None:
        from rich.console import Console
        from rich.text import Text

        console = self._progress.console if self._progress else Console(stderr=True)
        console.print(Text(text, style or ""), soft_wrap=True)


class _RichTask:
    def __init__(self, progress: Progress, handle: TaskID) -> None:
        self._progress = progress
        self._handle = handle

    def advance(self, amount: float = 1.0) -> None:
        self._progress.advance(self._handle, amount)

    def describe(self, text: str) -> None:
        self._progress.update(self._handle, text=text)


def _progress() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Task as Bar
    from rich.text import Text

    class Count(ProgressColumn):
        def render(self, task: Bar) -> Text:
            return Text(count(task.completed, task.total, task.fields["unit"]), style="progress.download")

    class Left(ProgressColumn):
        """How long it will take from now on, at the speed of the last while."""

        def render(self, task: Bar) -> Text:
            seconds = None if task.finished else task.time_remaining
            return Text("" if seconds is None else f"ETA {timedelta(seconds=int(seconds))}", style="progress.remaining")

    return Progress(
        SpinnerColumn(finished_text=" "),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        Count(),
        TimeElapsedColumn(),
        Left(),
        TextColumn("{task.fields[text]}", markup=False),
        console=Console(stderr=True),
    )


def _json_value(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _json_value(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _json_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_json_value(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None  # JSON has no NaN
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, PurePath):
        return str(value)
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return _json_value(value.item())  # a numpy or torch scalar
    raise TypeError(f"no JSON form for {type(value).__name__}")
