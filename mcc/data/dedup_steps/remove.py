"""`remove`: of each group the first document stays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import orjson

from mcc.core.config import option
from mcc.core.errors import MccError, UsageError
from mcc.core.events import SILENT, Reporter
from mcc.core.files import require_file
from mcc.data.base.blocks import Block, RecordSource
from mcc.data.base.job import Apply, Job, Map, Single, run, step_report
from mcc.data.base.part import Part
from mcc.data.base.publish import Output, records_path
from mcc.data.base.records import ReadConfig
from mcc.data.base.step import StepReport, side_path
from mcc.data.base.streams import lines
from mcc.data.base.work import Work
from mcc.data.dedup_steps.names import NAME, digest
from mcc.data.near_duplicates.phases import (
    name_text,
)

_LIST, _REMOVE = "list", "remove"


@dataclass(frozen=True, kw_only=True)
class RemoveReport(StepReport):
    """`removed` documents stood in a group, not as its first."""

    removed: int


@dataclass(frozen=True, kw_only=True)
class RemoveConfig:
    """How documents are named."""

    key: str = option("url", "key that names a document")
    workers: int = option(1, "processes")
    read: ReadConfig = field(default_factory=ReadConfig)

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise UsageError(f"workers = {self.workers} must be at least 1")


def remove_duplicates(
    groups: Path,
    inputs: Sequence[str | Path],
    output: Path,
    config: RemoveConfig | None = None,
    reporter: Reporter = SILENT,
    *,
    rejects: Path | None = None,
) -> RemoveReport:
    """Write the documents that are in no group, or the first of theirs.

    Args:
        groups: lines `{"i": [name, ...]}`, as `group_duplicates` writes them.

    Resident are 16 bytes for each document to remove, in each process.

    Raises:
        MccError: a line is no group, or bad input.
    """
    config = config or RemoveConfig()
    return run(remove_job(groups, inputs, output, config, rejects), config.workers, reporter)


def remove_job(
    groups: Path,
    inputs: Sequence[str | Path],
    output: Path,
    config: RemoveConfig | None = None,
    rejects: Path | None = None,
) -> Job[RemoveReport]:
    """The phases of `remove_duplicates`."""
    config = config or RemoveConfig()
    require_file(groups, "file of groups")
    aside = rejects or side_path(output, "rejects")
    outputs = [
        Output(aside, phase=_REMOVE, stream="rejects", optional=rejects is None),
        Output(records_path(output), phase=_REMOVE, stream="out"),
    ]

    def report(counts: Counter[str], work: Work) -> RemoveReport:
        limit = config.read.max_errors
        return step_report(
            RemoveReport, "remove duplicates", counts, work, outputs, limit, removed=work.counts(_REMOVE)["removed"]
        )

    state = groups.stat()
    return Job(
        name="remove duplicates",
        output=output,
        key=[str(groups), state.st_size, state.st_mtime_ns, config.key, str(aside)],
        phases=(
            Single(name=_LIST, run=_List(groups)),
            Map(
                name=_REMOVE,
                source=RecordSource(inputs, config.read),
                make=_Remove(config),
                streams={"out": output, "rejects": aside},
            ),
        ),
        outputs=outputs,
        report=report,
        inputs=(groups,),
    )


@dataclass(frozen=True)
class _List:
    groups: Path

    def __call__(self, work: Work, reporter: Reporter) -> None:
        with work.path("listed").open("wb") as file:
            for number, line in lines(self.groups):
                if line and not line.isspace():
                    file.write(b"".join(digest(orjson.dumps(name)) for name in self._names(line, number)))
        np.sort(np.fromfile(work.path("listed"), dtype=NAME)).tofile(work.path("listed"))

    def _names(self, line: bytes, number: int) -> Iterator[str]:
        try:
            for names in orjson.loads(line).values():
                if not isinstance(names, list):
                    raise TypeError
                yield from map(name_text, names[1:])
        except (ValueError, AttributeError, TypeError):
            raise MccError(f"{self.groups}:{number}: no group", 'lines are {"i": [name, ...]}') from None


@dataclass(frozen=True)
class _Remove:
    config: RemoveConfig

    def __call__(self, work: Work) -> Apply:
        config, text_key = self.config, self.config.read.keys[0]
        listed = np.fromfile(work.path("listed"), dtype=NAME)

        def apply(block: Block, part: Part) -> None:
            found: list[tuple[bytes, int]] = []
            digests: list[bytes] = []
            for where, line, record in block.records_and_lines(config.read, part):
                if config.key not in record:
                    part.counts["documents_in"] -= 1
                    part.counts["chars_in"] -= len(record[text_key])
                    part.bad_line(where, f"no key {config.key!r} to name the document by", line, config.read)
                    continue
                found.append((line.strip(), len(record[text_key])))
                digests.append(digest(orjson.dumps(name_text(record[config.key]))))
            own = np.array(digests, dtype=NAME)
            at = np.minimum(np.searchsorted(listed, own), max(len(listed) - 1, 0))
            gone = listed[at] == own if len(listed) else np.zeros(len(own), dtype=bool)
            for (line, chars), is_gone in zip(found, gone.tolist(), strict=True):
                if not is_gone:
                    part.keep_line(line, chars)
            part.counts["removed"] += int(gone.sum())

        return apply
