"""A step as a job: phases over blocks, resumed after the last whole block when it was killed, on one machine or many.

A `Map` phase turns every block of a source into bytes for some files; any number of processes do it, and the files are
the same. A `Single` phase sees what all blocks gave. What has been done is written to a journal in a hidden folder
beside the output (see `mcc.data.base.work`); the outputs get their names when all is done.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from mcc.core.errors import MccError, UsageError
from mcc.core.events import SILENT, Reporter
from mcc.data.base.blocks import Block, Source
from mcc.data.base.part import Part
from mcc.data.base.publish import Output, publish
from mcc.data.base.shard_files import BlockWorker, ShardFiles
from mcc.data.base.step import StepReport
from mcc.data.base.work import Work, opened
from mcc.data.base.workers import Workers

# One call of this for a block; made in each process, from the folder of the job.
Apply = Callable[[Block, Part], None]
ReportT = TypeVar("ReportT", bound=StepReport)


@dataclass(frozen=True, kw_only=True)
class Map:
    """A phase that looks at one block at a time.

    Args:
        name: of the phase, unique in the job.
        source: what gives the blocks; a function when it depends on what earlier phases wrote.
        make: called once in each process with the job's folder, gives what is applied to every block; picklable.
        streams: the files it writes: the path whose ending says how the file is compressed, or None for raw bytes.
        unit: what its progress counts when the source has no size.
        follow: called in this process while others work on, with the job's folder and how many bytes of each stream
            are in the files: what it does the next phase need not do. Not called for shards.
    """

    name: str
    source: Source | Callable[[Work], Source]
    make: Callable[[Work], Apply]
    streams: Mapping[str, Path | None]
    unit: str = "documents"
    follow: Callable[[Work, Mapping[str, int]], None] | None = None

    def blocks_of(self, work: Work) -> Source:
        """The source."""
        return self.source if isinstance(self.source, Source) else self.source(work)


@dataclass(frozen=True, kw_only=True)
class Single:
    """A phase in one process, over the files of earlier phases: `run(work, reporter)` may return counts."""

    name: str
    run: Callable[[Work, Reporter], Mapping[str, int] | None]


Phase = Map | Single


@dataclass(frozen=True, kw_only=True)
class Job(Generic[ReportT]):
    """A step with its inputs, outputs and settings.

    Args:
        name: of the step.
        output: the main output; the job's folder stands beside it.
        key: settings that decide the result, for JSON; another key begins afresh.
        phases: in order.
        outputs: what becomes of the streams at the end, the main one last.
        report: from the counts of all phases together and the job's folder (`work.counts(phase)` has each phase's).
    """

    name: str
    output: Path
    key: Any
    phases: Sequence[Phase]
    outputs: Sequence[Output]
    report: Callable[[Counter[str], Work], ReportT]
    inputs: Sequence[Path] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        names = [phase.name for phase in self.phases]
        assert len(set(names)) == len(names), "phases need names of their own"
        written: dict[Path, Path] = {}
        for output in self.outputs:
            if written.setdefault(output.path.resolve(), output.path) is not output.path:
                raise UsageError(f"{output.path} cannot be two outputs at once", "choose another path for one of them")
        for path in self.sources():
            if path.resolve() in written:
                raise UsageError(f"{path} is both input and output", "choose another output path")

    def sources(self) -> Iterator[Path]:
        """The files that are read."""
        yield from self.inputs
        for phase in self.phases:
            if isinstance(phase, Map) and isinstance(phase.source, Source):
                yield from phase.source.paths

    def fingerprint(self) -> Any:
        """What must be the same for a killed run to go on."""
        keys = [
            phase.source.key() for phase in self.phases if isinstance(phase, Map) and isinstance(phase.source, Source)
        ]
        return [self.name, self.key, keys]


def run(job: Job[ReportT], workers: int | Workers = 1, reporter: Reporter = SILENT) -> ReportT:
    """Do what is left of `job`, and give its outputs their names.

    Args:
        workers: processes for the `Map` phases, or how many.

    Raises:
        MccError: bad input; nothing is written then.
    """
    started = time.perf_counter()
    team = workers if isinstance(workers, Workers) else Workers(workers)
    with opened(job.output, job.fingerprint()) as work, team:
        work.started = started
        if work.is_stale(job.outputs):
            work.clear()
        for phase in job.phases:
            run_phase(phase, work, job.name, team, reporter)
        return finish(job, work, reporter)


def run_phase(
    phase: Phase,
    work: Work,
    step: str,
    workers: Workers | None = None,
    reporter: Reporter = SILENT,
    rank: int = 0,
    world: int = 1,
) -> None:
    """Do what is left of the shard `rank` of `world` of a phase; a `Single` has one shard. Without workers this process
    does it alone."""
    if isinstance(phase, Single):
        if work.done(phase.name) is None:
            counts = phase.run(work, reporter)
            work.set_done(phase.name, counts or {})
        return
    source = phase.blocks_of(work)
    if work.done(phase.name, rank) is None:
        _run_map(phase, source, work, step, workers or Workers(1), reporter, rank, world)
    if world == 1:
        source.check(work.counts(phase.name))


def finish(job: Job[ReportT], work: Work, reporter: Reporter) -> ReportT:
    """The report, and the outputs under their names."""
    counts: Counter[str] = Counter()
    for phase in job.phases:
        counts.update(work.counts(phase.name))
    work.set_publishing()
    report = job.report(counts, work)
    if report.documents_in and not report.documents_out and job.outputs:
        reporter.warn(f"{job.name}: no document is left of {report.documents_in}")
    for output in job.outputs:
        publish(output, work)
    return report


def _run_map(
    phase: Map, source: Source, work: Work, step: str, workers: Workers, reporter: Reporter, rank: int, world: int
) -> None:
    units = range(source.units() * rank // world, source.units() * (rank + 1) // world)
    label = step if phase.name == step else f"{step}: {phase.name}"
    endings = {name: "" if path is None else path.suffix.lower() for name, path in phase.streams.items()}
    megabytes = source.size() / 1e6
    with (
        ShardFiles(work, phase.name, rank, tuple(phase.streams)) as files,
        reporter.task(label, total=round(megabytes * len(units) / max(source.units(), 1), 1), unit="MB") as task,
    ):
        task.advance(files.size / 1e6)
        make = partial(_worker, phase.make, work, endings, work.shard(phase.name, rank))
        for given, again in workers.map(make, _blocks(source, units, files.last)):
            for warning in given.warnings:
                reporter.warn(warning)
            files.add(given, again)
            if phase.follow is not None and world == 1:
                phase.follow(work, files.written)
            task.advance(given.size / 1e6)
        files.end()


def _blocks(source: Source, units: range, last: tuple[int, int] | None) -> Iterator[Block]:
    """The blocks behind `last`."""
    for unit in units:
        if last is not None and unit < last[0]:
            continue
        for block in source.blocks(unit):
            if last is None or (block.unit, block.part) > last:
                yield block


def _worker(make: Callable[[Work], Apply], work: Work, endings: dict[str, str], folder: Path) -> BlockWorker:
    return BlockWorker(make(work), endings, folder)


def step_report(
    cls: Callable[..., ReportT],
    name: str,
    counts: Mapping[str, int],
    work: Work,
    outputs: Sequence[Output],
    max_errors: int = 0,
    **more: Any,
) -> ReportT:
    """A report from the usual counts: `documents_in`, `chars_in`, ..., `rejected:REASON`, `bad_lines`."""
    rejected = {key.partition(":")[2]: count for key, count in sorted(counts.items()) if key.startswith("rejected:")}
    written = [
        str(output.path)
        for output in outputs
        if not output.optional or work.size_of(output) or work.is_published(output)
    ]
    values: dict[str, Any] = {
        "step": name,
        **{key: counts.get(key, 0) for key in ("documents_in", "documents_out", "chars_in", "chars_out", "bad_lines")},
        "rejected": rejected,
        "max_errors": max_errors,
        "seconds": round(work.seconds, 3),
        "outputs": tuple(reversed(written)),
        **more,
    }
    return cls(**values)


def require_few_errors(report: StepReport) -> None:
    """Complain of a finished step that set too many lines aside.

    Raises:
        MccError: there are more bad lines than `max_errors`.
    """
    if report.bad_lines > report.max_errors:
        lines = "1 bad line" if report.bad_lines == 1 else f"{report.bad_lines:,} bad lines"
        raise MccError(
            f"{report.step}: {lines}, more than --max-errors {report.max_errors}; all others were done",
            "see the file of rejects; correct them, or tolerate so many with --max-errors",
        )
