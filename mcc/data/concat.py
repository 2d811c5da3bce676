"""Many files as one, every line checked, in the order of the inputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from mcc.core.config import option
from mcc.core.errors import UsageError
from mcc.core.events import SILENT, Reporter
from mcc.data.base.blocks import Block, RecordSource
from mcc.data.base.job import Apply, Job, Map, run, step_report
from mcc.data.base.part import Part
from mcc.data.base.publish import Output, records_path
from mcc.data.base.records import ReadConfig, Record
from mcc.data.base.step import StepReport, side_path
from mcc.data.base.work import Work


@dataclass(frozen=True, kw_only=True)
class ConcatConfig:
    """What changes on the way.

    Args:
        keys: `OLD=NEW` renames a key; the key of the text (`read.keys`) is the new one.

    Raises:
        UsageError: `keys` holds something else, or two keys of one name.
    """

    keys: tuple[str, ...] = option((), "keys to rename, OLD=NEW")
    workers: int = option(1, "processes")
    read: ReadConfig = field(default_factory=ReadConfig)

    def __post_init__(self) -> None:
        for pair in self.keys:
            old, equals, new = pair.partition("=")
            if not old or not equals or not new or old == new:
                raise UsageError(f"key {pair!r} renames nothing", "give OLD=NEW")
        for side in (0, 2):
            for name, count in Counter(pair.partition("=")[side] for pair in self.keys).items():
                if count > 1:
                    raise UsageError(f"key {name!r} is renamed twice", "give each OLD and each NEW once")
        if self.workers < 1:
            raise UsageError(f"workers = {self.workers} must be at least 1")

    def renamed(self) -> dict[str, str]:
        """Old key -> new key."""
        return {old: new for old, _, new in (pair.partition("=") for pair in self.keys)}


@dataclass(frozen=True, kw_only=True)
class ConcatReport(StepReport):
    """`renamed` is the number of documents that had each key which is renamed."""

    renamed: dict[str, int]


def concat(
    inputs: Sequence[str | Path],
    output: Path,
    config: ConcatConfig | None = None,
    reporter: Reporter = SILENT,
    rejects: Path | None = None,
) -> ConcatReport:
    """Write the documents of all inputs to one file.

    Args:
        rejects: where bad lines go, `OUTPUT.rejects.jsonl` by default.

    Raises:
        MccError: bad input.
    """
    config = config or ConcatConfig()
    report = run(concat_job(inputs, output, config, rejects), config.workers, reporter)
    for old, documents in report.renamed.items():
        if not documents:
            reporter.warn(f"concat: no document has the key {old!r}, which was to be renamed")
    return report


def concat_job(
    inputs: Sequence[str | Path], output: Path, config: ConcatConfig | None = None, rejects: Path | None = None
) -> Job[ConcatReport]:
    """The step as a job."""
    config = config or ConcatConfig()
    before = {new: old for old, new in config.renamed().items()}
    read = replace(config.read, keys=tuple(before.get(key, key) for key in config.read.keys))
    optional = rejects is None
    rejects = rejects or side_path(output, "rejects")
    outputs = (
        Output(rejects, phase="concat", stream="rejects", optional=optional),
        Output(records_path(output), phase="concat", stream="out"),
    )

    def report(counts: Counter[str], work: Work) -> ConcatReport:
        renamed = {old: counts[f"renamed:{old}"] for old in config.renamed()}
        return step_report(ConcatReport, "concat", counts, work, outputs, config.read.max_errors, renamed=renamed)

    return Job(
        name="concat",
        output=output,
        key=[*config.keys],
        phases=(
            Map(
                name="concat",
                source=RecordSource(inputs, read),
                make=partial(_copy, read, config.renamed()),
                streams={"out": output, "rejects": rejects},
            ),
        ),
        outputs=outputs,
        report=report,
    )


def _copy(read: ReadConfig, renamed: dict[str, str], _: Work) -> Apply:
    key = read.keys[0]

    def apply(block: Block, out: Part) -> None:
        for where, line, record in block.records_and_lines(read, out):
            if renamed.keys().isdisjoint(record):
                out.keep_line(line.rstrip(b"\r"), len(record[key]))
                continue
            clash = [new for old, new in renamed.items() if old in record and new in record and new not in renamed]
            if clash:
                out.bad_line(where, f"key {clash[0]!r} is there already", line, read)
            else:
                out.counts.update(f"renamed:{old}" for old in renamed if old in record)
                out.keep(_rename(record, renamed), len(record[key]))

    return apply


def _rename(record: Record, renamed: dict[str, str]) -> Record:
    return {renamed.get(key, key): value for key, value in record.items()}
