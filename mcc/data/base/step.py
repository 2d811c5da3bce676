"""What every step from documents to documents shares: reading, writing, setting aside, counting, reporting."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TypeVar

import orjson

from mcc.core.errors import MccError, UsageError
from mcc.core.events import SILENT, Reporter, Task
from mcc.core.files import atomic_path, partial_path, remove
from mcc.data.base.documents import JSONL, ReadConfig, Reader, Record
from mcc.data.base.streams import COMPRESSIONS, content_suffix, open_output

# Progress is told this often: a bar that moves at every document costs more than many a step.
_REPORT_EVERY = 64


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """What a step did. Subclasses add what is their own.

    Args:
        step: its name.
        documents_in, documents_out: records read and written.
        chars_in, chars_out: characters of their texts.
        rejected: how many documents were set aside, by reason.
        bad_lines: lines that were no records.
        max_errors: how many of them are no error.
        seconds: wall time.
        outputs: the files written.
    """

    step: str
    documents_in: int
    documents_out: int
    chars_in: int = 0
    chars_out: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    bad_lines: int = 0
    max_errors: int = 0
    seconds: float = 0.0
    outputs: tuple[str, ...] = ()


Report = TypeVar("Report", bound=StepReport)


class RecordWriter:
    """Writes records as JSON lines, compressed by the ending; the file has its name only when it is whole."""

    def __init__(self, path: Path) -> None:
        if content_suffix(path) not in JSONL:
            endings = ", ".join(f".jsonl{end}" for end in ("", *COMPRESSIONS))
            raise UsageError(f"output {path}: records are written as JSON lines", f"end its name with one of {endings}")
        self.path = path
        self._stack = ExitStack()
        self._stream: IO[bytes] | None = None

    def __enter__(self) -> RecordWriter:
        with ExitStack() as stack:
            temporary = stack.enter_context(atomic_path(self.path))
            self._stream = stack.enter_context(open_output(temporary, self.path))
            self._stack = stack.pop_all()
        return self

    def write(self, record: Record) -> None:
        """Append one record."""
        self.write_line(orjson.dumps(record))

    def write_line(self, line: bytes) -> None:
        """Append one record that is JSON already."""
        assert self._stream is not None, "use RecordWriter in a `with` statement"
        self._stream.write(line + b"\n")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._stack.__exit__(kind, error, trace)


def side_path(output: Path, name: str) -> Path:
    """A file beside `output` for what it does not hold.

    >>> str(side_path(Path("a/clean.jsonl.gz"), "rejects"))
    'a/clean.rejects.jsonl'
    """
    stem = output.name
    if not stem:
        raise UsageError(f"output {output} is a folder", "give the path of a file")
    for suffix in (*COMPRESSIONS, *JSONL):
        stem = stem.removesuffix(suffix)
    return output.with_name(f"{stem}.{name}.jsonl")


@contextmanager
def work_folder(output: Path) -> Iterator[Path]:
    """A folder beside `output` for what does not fit into memory. One that a killed run left is taken away."""
    folder = partial_path(output.with_name(f"{output.name}.work"))
    remove(folder)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        remove(folder)


class Step:
    """One pass over documents, used in a `with` statement around everything that reads and writes.

    Args:
        name: of the step, for the report.
        inputs, output: files; `output` None when the step writes no records itself.
        read: what counts as a record.
        rejects: where documents set aside and bad lines go; None for `OUTPUT.rejects.jsonl`, which is made only
            when there is something to put into it.
        reporter: receives the progress.
    """

    def __init__(
        self,
        name: str,
        inputs: Sequence[str | Path],
        output: Path | None,
        *,
        read: ReadConfig | None = None,
        rejects: Path | None = None,
        reporter: Reporter = SILENT,
        source: Reader | None = None,
    ) -> None:
        self.name = name
        self.output = output
        self.reporter = reporter
        # A step sets all bad lines aside; whether they are too many is said at the end.
        read = read or ReadConfig()
        self._max_errors = read.max_errors
        self.reader = source or Reader(inputs, replace(read, max_errors=sys.maxsize))
        self.documents_in = self.documents_out = self.chars_in = self.chars_out = 0
        self.rejected: Counter[str] = Counter()
        self._started = time.perf_counter()
        self._stack = ExitStack()
        self._writer = RecordWriter(output) if output is not None else None
        self._optional_rejects = rejects is None
        self._rejects_path = rejects or (side_path(output, "rejects") if output is not None else None)
        self._rejects = RecordWriter(self._rejects_path) if self._rejects_path is not None else None
        self._rejects_used = False
        self._check_paths()

    def _check_paths(self) -> None:
        paths = [path.resolve() for path in (self.output, self._rejects_path) if path is not None]
        if len(set(paths)) < len(paths):
            raise UsageError(f"{self.output} cannot be both the output and the file of rejects")
        for path in self.reader.paths:
            if path.resolve() in paths:
                raise UsageError(f"{path} is both input and output", "choose another output path")

    def __enter__(self) -> Step:
        with ExitStack() as stack:
            # Left in reverse order: the output gets its name last, when everything beside it is there.
            if self._writer is not None:
                stack.enter_context(self._writer)
            if self._rejects is not None:
                if self._optional_rejects:
                    stack.push(self._drop_unused_rejects)
                stack.enter_context(self._rejects)
            self._stack = stack.pop_all()
        return self

    def _drop_unused_rejects(self, kind: type[BaseException] | None, *_: object) -> None:
        # Also one that an earlier run left: it would speak of documents that are now in the output.
        if kind is None and not self._rejects_used and self._rejects_path is not None:
            remove(self._rejects_path)

    def records(self, what: str = "documents") -> Iterator[Record]:
        """Every record, with progress told.

        Raises:
            MccError: there is none, or a line is bad (see `Reader`).
        """
        key = self.reader.config.keys[0]
        with self.reporter.task(self.name, unit=what) as task:
            for record in self.reader:
                self.documents_in += 1
                self.chars_in += len(record[key])
                if self.reader.bad:
                    self._take_bad_lines()
                yield record
                self._tell(task)
            self._take_bad_lines()
        if not self.documents_in:
            names = ", ".join(str(path) for path in self.reader.paths[:3])
            more = f" and {len(self.reader.paths) - 3} more files" if len(self.reader.paths) > 3 else ""
            raise MccError(f"no documents in {names}{more}", "give a file with at least one record")

    def _tell(self, task: Task) -> None:
        if self.documents_in % _REPORT_EVERY == 0:
            task.advance(_REPORT_EVERY)

    def _take_bad_lines(self) -> None:
        for bad in self.reader.bad:
            self.reporter.warn(f"{bad.where}: {bad.reason}")
            if self._rejects is not None:
                self._rejects_used = True
                self._rejects.write({"reason": f"bad line: {bad.reason}", "where": bad.where, "line": bad.line})
        self.reader.bad.clear()

    def write(self, record: Record) -> None:
        """Keep `record`."""
        assert self._writer is not None
        self._writer.write(record)
        self.documents_out += 1
        self.chars_out += len(record[self.reader.config.keys[0]])

    def write_line(self, line: bytes) -> None:
        """Keep a record that is JSON already; its characters are not counted."""
        assert self._writer is not None
        self._writer.write_line(line)
        self.documents_out += 1

    def reject(self, record: Record, kind: str, reason: str, *, where: str | None = None) -> None:
        """Set `record` aside; `kind` is counted, `reason` (one line) is written beside the record.

        `where` (`FILE:LINE`) is the record's place if it is not the one read last.
        """
        self.rejected[kind] += 1
        if self._rejects is not None:
            self._rejects_used = True
            self._rejects.write({"reason": f"{kind}: {reason}", "where": where or self.reader.where, **record})

    def report(self, cls: Callable[..., Report], **more: Any) -> Report:
        """The report of a finished step; call it after the `with` block."""
        outputs = [str(self.output)] if self.output is not None else []
        if self._rejects_path is not None and (self._rejects_used or not self._optional_rejects):
            outputs.append(str(self._rejects_path))
        if self.documents_in and not self.documents_out and self.output is not None:
            self.reporter.warn(f"{self.name}: no document is left of {self.documents_in}")
        return cls(
            **{
                "step": self.name,
                "documents_in": self.documents_in,
                "documents_out": self.documents_out,
                "chars_in": self.chars_in,
                "chars_out": self.chars_out,
                "rejected": dict(sorted(self.rejected.items())),
                "bad_lines": self.reader.bad_lines,
                "max_errors": self._max_errors,
                "seconds": round(time.perf_counter() - self._started, 3),
                "outputs": tuple(outputs),
                **more,
            }
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._stack.__exit__(kind, error, trace)
