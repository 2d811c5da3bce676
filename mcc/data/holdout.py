"""Set documents aside before training, to measure on: the same ones whatever their order."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mcc.core.config import option
from mcc.core.errors import MccError, UsageError
from mcc.core.events import SILENT, Reporter
from mcc.data.documents import ReadConfig
from mcc.data.step import RecordWriter, Step, StepReport


@dataclass(frozen=True, kw_only=True)
class HoldOutConfig:
    """How much is set aside.

    Raises:
        UsageError: the share is not between 0 and 1.
    """

    share: float = option(0.05, "share of the documents to set aside")
    seed: int = option(1234, "seed of the choice")
    read: ReadConfig = field(default_factory=ReadConfig)

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise UsageError(f"share = {self.share} is not between 0 and 1")


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
) -> HoldOutReport:
    """Write documents to `output`, but about a share of them to `held_out`: a document's text and the seed decide.

    Raises:
        MccError: one of the two files would be empty.
    """
    config = config or HoldOutConfig()
    step = Step("holdout", inputs, output, read=config.read, reporter=reporter)
    kept_apart = 0
    with step, RecordWriter(held_out) as aside:
        for record in step.records():
            if chosen(record[config.read.keys[0]], config):
                aside.write(record)
                kept_apart += 1
            else:
                step.write(record)
        if not kept_apart or kept_apart == step.documents_in:
            raise MccError(
                f"{step.documents_in} documents are too few to hold out a share of {config.share:g}",
                "give more documents, or another share",
            )
    return step.report(HoldOutReport, held_out=kept_apart)


def chosen(text: str, config: HoldOutConfig) -> bool:
    """Whether a document is set aside.

    >>> sum(chosen(f"document {i}", HoldOutConfig(share=0.25)) for i in range(1000))
    220
    """
    hashed = zlib.crc32(text.encode("utf-8", "surrogatepass"), config.seed & 0xFFFFFFFF)
    return hashed < config.share * 2**32
