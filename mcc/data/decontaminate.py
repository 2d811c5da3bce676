"""Passages of evaluation tasks cut out of training documents, by the 13-gram rule of GPT-3 as Megatron-LM applies it.

Words are runs of `\\w`, lower-cased. A task text of 13 words or more gives all its 13-grams, one of 8 to 12 words is
one n-gram, a shorter one is none. N-grams that occur in 10 documents or more are common phrases and are left alone.
Around every other one a document is cut at the next `.`, `!` or `?` beyond 200 characters on either side; pieces of
more than 200 characters stay; a document in more than 10 pieces is dropped (Brown et al. 2020, appendix C).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from mcc.core.config import option, plain
from mcc.core.errors import UsageError
from mcc.core.events import SILENT, Reporter
from mcc.core.files import require_file
from mcc.data.base.blocks import RecordSource
from mcc.data.base.job import Job, Map, Single, run, step_report
from mcc.data.base.publish import Output, records_path
from mcc.data.base.records import ReadConfig
from mcc.data.base.step import StepReport, side_path
from mcc.data.base.work import Work
from mcc.data.ngrams.contamination import CutConfig
from mcc.data.ngrams.phases import COUNT, CUT, DICTIONARY, WEIGH, Count, Cut, forget, prepare, weigh
from mcc.data.ngrams.task_texts import TASK_FILES, TaskFile, files

__all__ = ["TASK_FILES", "DecontaminateConfig", "DecontaminateReport", "TaskFile", "decontaminate", "decontaminate_job"]


@dataclass(frozen=True, kw_only=True)
class DecontaminateConfig(CutConfig):
    """The tasks, and the numbers of the rule.

    Args:
        tasks: what to look for.
        dictionary: a saved dictionary instead of tasks; its counts of documents hold, not those of this corpus.

    Raises:
        UsageError: no task is given, tasks and a dictionary are, or a number is out of bounds.
    """

    tasks: tuple[TaskFile, ...] = ()
    dictionary: str | None = option(None, "saved dictionary to use instead of tasks")
    workers: int = option(1, "processes")
    read: ReadConfig = field(default_factory=ReadConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.workers < 1:
            raise UsageError(f"workers = {self.workers} must be at least 1")
        if not self.tasks and self.dictionary is None:
            raise UsageError("no task to decontaminate against", "give a task and its file, or a saved dictionary")
        if self.tasks and self.dictionary is not None:
            raise UsageError("tasks and a saved dictionary exclude each other", "leave one of them out")


@dataclass(frozen=True, kw_only=True)
class DecontaminateReport(StepReport):
    """What was found. `documents_out` counts pieces.

    Args:
        ngrams: n-grams that each task gave, without those of the tasks before it.
        common: n-grams left alone because too many documents hold them.
        matched: n-grams that were cut out, by task.
        contaminated: documents that they were cut out of, by task.
        trimmed, split, dropped: documents cut to one piece, to several, and not kept.
    """

    ngrams: dict[str, int]
    common: int
    matched: dict[str, int]
    contaminated: dict[str, int]
    trimmed: int
    split: int
    dropped: int


def decontaminate(
    inputs: Sequence[str | Path],
    output: Path,
    config: DecontaminateConfig,
    reporter: Reporter = SILENT,
    rejects: Path | None = None,
    save: Path | None = None,
) -> DecontaminateReport:
    """Write the documents without what they share with the tasks.

    A document that was cut gives one record a piece, with `split_id` (`TASKS-DOCUMENT-PIECE`); all others are written
    as they stand in the input. Dropped documents go to `rejects`, `OUTPUT.rejects.jsonl` by default.

    Args:
        save: a file for the n-grams and how many documents hold each, for `config.dictionary` of another run.

    Raises:
        MccError: bad input, or a task's file gives no n-grams.
    """
    return run(decontaminate_job(inputs, output, config, rejects, save), config.workers, reporter)


def decontaminate_job(
    inputs: Sequence[str | Path],
    output: Path,
    config: DecontaminateConfig,
    rejects: Path | None = None,
    save: Path | None = None,
) -> Job[DecontaminateReport]:
    """The step as a job: count the n-grams of every document, weigh them, cut."""
    source = RecordSource(inputs, config.read)
    optional = rejects is None
    rejects = rejects or side_path(output, "rejects")
    saved = None if save is None else f"saved-{save.name}"
    outputs = [Output(rejects, phase=CUT, stream="rejects", optional=optional)]
    outputs += [Output(save, file=saved)] if save is not None and saved is not None else []
    outputs += [Output(records_path(output), phase=CUT, stream="out")]

    def report(_: Mapping[str, int], work: Work) -> DecontaminateReport:
        forget()
        counts = work.counts(CUT)
        return step_report(
            DecontaminateReport,
            "decontaminate",
            counts,
            work,
            outputs,
            config.read.max_errors,
            ngrams=_named(work.counts(DICTIONARY), "ngrams"),
            common=work.counts(WEIGH)["common"],
            matched=_named(counts, "matched"),
            contaminated=_named(counts, "contaminated"),
            trimmed=counts["trimmed"],
            split=counts["split"],
            dropped=sum(number for name, number in counts.items() if name.startswith("rejected:")),
        )

    return Job(
        name="decontaminate",
        output=output,
        key=[plain(replace(config, workers=1)), _state(config), saved],
        phases=(
            Single(name=DICTIONARY, run=partial(prepare, config)),
            Map(
                name=COUNT,
                source=source,
                make=partial(Count, config.read),
                streams={"table": None, "suspects": None, "ngrams": None},
            ),
            Single(name=WEIGH, run=partial(weigh, config.key_threshold, saved)),
            Map(name=CUT, source=source, make=partial(Cut, config), streams={"out": output, "rejects": rejects}),
        ),
        outputs=outputs,
        report=report,
        inputs=_files(config),
    )


def _files(config: DecontaminateConfig) -> list[Path]:
    """What is read beside the documents."""
    if config.dictionary is not None:
        return [require_file(config.dictionary, "dictionary")]
    return [path for task in config.tasks if task.path is not None for path in files(task.path)]


def _state(config: DecontaminateConfig) -> Any:
    """What tells that the tasks are still the same, for JSON."""
    return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in _files(config)]


def _named(counts: Mapping[str, int], kind: str) -> dict[str, int]:
    return {name.partition(":")[2]: number for name, number in counts.items() if name.startswith(f"{kind}:")}
