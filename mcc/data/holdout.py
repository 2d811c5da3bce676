"""Set documents aside before training, to measure on: the same ones whatever their order."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from mcc.core.config import option
from mcc.core.errors import MccError, UsageError
from mcc.core.events import SILENT, Reporter
from mcc.data.base.blocks import Block, RecordSource
from mcc.data.base.job import Apply, Job, Map, Single, run, step_report
from mcc.data.base.part import Part
from mcc.data.base.publish import Output, records_path
from mcc.data.base.records import ReadConfig
from mcc.data.base.step import StepReport, side_path
from mcc.data.base.work import Work


@dataclass(frozen=True, kw_only=True)
class HoldOutConfig:
    """How much is set aside.

    Raises:
        UsageError: the share is not between 0 and 1.
    """

    share: float = option(0.05, "share of the documents to set aside")
    seed: int = option(1234, "seed of the choice")
    workers: int = option(1, "processes")
    read: ReadConfig = field(default_factory=ReadConfig)

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise UsageError(f"share = {self.share} is not between 0 and 1")
        if self.workers < 1:
            raise UsageError(f"workers = {self.workers} must be at least 1")


@dataclass(frozen=True, kw_only=True)
class HoldOutReport(StepReport):
    """`documents_out` stay for training, `held_out` are set aside."""

    held_out: int


def hold_out(
    inputs: Sequence[str | Path],
    output: Path,
    held_out: Path,
    config: HoldOutConfig | None = None,
    reporter: Reporter = SILENT,
    rejects: Path | None = None,
) -> HoldOutReport:
    """Write documents to `output`, but about a share of them to `held_out`: a document's text and the seed decide.

    Args:
        rejects: where bad lines go, `OUTPUT.rejects.jsonl` by default.

    Raises:
        MccError: one of the two files would be empty.
    """
    config = config or HoldOutConfig()
    return run(hold_out_job(inputs, output, held_out, config, rejects), config.workers, reporter)


def hold_out_job(
    inputs: Sequence[str | Path],
    output: Path,
    held_out: Path,
    config: HoldOutConfig | None = None,
    rejects: Path | None = None,
) -> Job[HoldOutReport]:
    """The step as a job."""
    config = config or HoldOutConfig()
    optional = rejects is None
    rejects = rejects or side_path(output, "rejects")
    outputs = (
        Output(rejects, phase="holdout", stream="rejects", optional=optional),
        Output(records_path(held_out), phase="holdout", stream="held"),
        Output(records_path(output), phase="holdout", stream="out"),
    )

    def report(counts: Mapping[str, int], work: Work) -> HoldOutReport:
        held = counts["held_out"]
        return step_report(HoldOutReport, "holdout", counts, work, outputs, config.read.max_errors, held_out=held)

    return Job(
        name="holdout",
        output=output,
        key=[str(held_out), config.share, config.seed],
        phases=(
            Map(
                name="holdout",
                source=RecordSource(inputs, config.read),
                make=partial(_choose, config),
                streams={"out": output, "held": held_out, "rejects": rejects},
            ),
            Single(name="check", run=partial(_check, config.share)),
        ),
        outputs=outputs,
        report=report,
    )


def _choose(config: HoldOutConfig, _: Work) -> Apply:
    key = config.read.keys[0]

    def apply(block: Block, out: Part) -> None:
        for _, line, record in block.records_and_lines(config.read, out):
            if chosen(record[key], config):
                out.write_line("held", line.rstrip(b"\r"))
                out.counts["held_out"] += 1
            else:
                out.keep_line(line.rstrip(b"\r"), len(record[key]))

    return apply


def _check(share: float, work: Work, _: Reporter) -> None:
    counts = work.counts("holdout")
    if not counts["held_out"] or not counts["documents_out"]:
        raise MccError(
            f"{counts['documents_in']} documents are too few to hold out a share of {share:g}",
            "give more documents, or another share",
        )


def chosen(text: str, config: HoldOutConfig) -> bool:
    """Whether a document is set aside.

    >>> sum(chosen(f"document {i}", HoldOutConfig(share=0.25)) for i in range(1000))
    220
    """
    hashed = zlib.crc32(text.encode("utf-8", "surrogatepass"), config.seed & 0xFFFFFFFF)
    return hashed < config.share * 2**32
