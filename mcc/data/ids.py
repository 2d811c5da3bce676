"""An id for every document: a prefix and its number, from 1, in the order of the inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from mcc.core.config import option
from mcc.core.errors import UsageError
from mcc.core.events import SILENT, Reporter
from mcc.data.base.block_table import BlockTable, write_row
from mcc.data.base.blocks import Block, RecordSource
from mcc.data.base.job import Apply, Job, Map, run, step_report
from mcc.data.base.part import Part
from mcc.data.base.publish import Output, records_path
from mcc.data.base.records import ReadConfig
from mcc.data.base.step import StepReport, side_path
from mcc.data.base.work import Work

_COUNT, _NUMBER = "count", "number"


@dataclass(frozen=True, kw_only=True)
class IdsConfig:
    """What ids look like.

    Raises:
        UsageError: the key is that of the text, or a number is out of bounds.
    """

    key: str = option("id", "key that receives the id")
    prefix: str = option("", "what the id begins with, and a dash")
    width: int = option(10, "digits, filled up with zeros")
    workers: int = option(1, "processes")
    read: ReadConfig = field(default_factory=ReadConfig)

    def __post_init__(self) -> None:
        if not self.key or self.key in self.read.keys:
            raise UsageError(f"key = {self.key!r} cannot hold the id", "it must have a key of its own")
        if self.width < 1:
            raise UsageError(f"width = {self.width} must be at least 1")
        if self.workers < 1:
            raise UsageError(f"workers = {self.workers} must be at least 1")

    def id_of(self, number: int) -> str:
        """The id of a document.

        >>> IdsConfig(prefix="wiki").id_of(12)
        'wiki-0000000012'
        """
        digits = f"{number:0{self.width}d}"
        return f"{self.prefix}-{digits}" if self.prefix else digits


@dataclass(frozen=True, kw_only=True)
class IdsReport(StepReport):
    """`replaced` documents had something under the key before."""

    replaced: int


def ids(
    inputs: Sequence[str | Path],
    output: Path,
    config: IdsConfig | None = None,
    reporter: Reporter = SILENT,
    rejects: Path | None = None,
) -> IdsReport:
    """Write every document with an id, the same whatever the number of processes.

    Args:
        rejects: where bad lines go, `OUTPUT.rejects.jsonl` by default; they have no number.
    """
    config = config or IdsConfig()
    return run(ids_job(inputs, output, config, rejects), config.workers, reporter)


def ids_job(
    inputs: Sequence[str | Path], output: Path, config: IdsConfig | None = None, rejects: Path | None = None
) -> Job[IdsReport]:
    """The step as a job: count the documents of every block, then number them."""
    config = config or IdsConfig()
    source = RecordSource(inputs, config.read)
    optional = rejects is None
    rejects = rejects or side_path(output, "rejects")
    outputs = (
        Output(rejects, phase=_NUMBER, stream="rejects", optional=optional),
        Output(records_path(output), phase=_NUMBER, stream="out"),
    )

    def report(_: Mapping[str, int], work: Work) -> IdsReport:
        counts = work.counts(_NUMBER)
        return step_report(IdsReport, "ids", counts, work, outputs, config.read.max_errors, replaced=counts["replaced"])

    return Job(
        name="ids",
        output=output,
        key=[config.key, config.prefix, config.width],
        phases=(
            Map(name=_COUNT, source=source, make=partial(_count, config.read), streams={"table": None}),
            Map(
                name=_NUMBER, source=source, make=partial(_number, config), streams={"out": output, "rejects": rejects}
            ),
        ),
        outputs=outputs,
        report=report,
    )


def _count(read: ReadConfig, _: Work) -> Apply:
    def apply(block: Block, out: Part) -> None:
        documents = sum(1 for _ in block.records(read, out))
        out.warnings.clear()  # they come again when the lines are set aside
        write_row(out, "table", block, documents)

    return apply


def _number(config: IdsConfig, work: Work) -> Apply:
    table = BlockTable(work.parts(_COUNT, "table"), ["documents"])
    key = config.read.keys[0]

    def apply(block: Block, out: Part) -> None:
        first = table.before(block, "documents") + 1
        for number, (_, record) in enumerate(block.records(config.read, out), first):
            out.counts["replaced"] += config.key in record
            out.keep({**record, config.key: config.id_of(number)}, len(record[key]))

    return apply
