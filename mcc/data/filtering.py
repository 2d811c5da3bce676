"""The contract of a filter, and the step that applies filters in order.

A filter is one file in `mcc/data/filters`, its name is the file's. It looks at one text at a time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from mcc.core.config import build, option, plain
from mcc.core.errors import UsageError
from mcc.core.events import SILENT, Reporter
from mcc.core.plugins import Kind
from mcc.data.base.blocks import Block, RecordSource
from mcc.data.base.job import Job, Map, run, step_report
from mcc.data.base.part import Part
from mcc.data.base.publish import Output, records_path
from mcc.data.base.records import ReadConfig
from mcc.data.base.step import StepReport, side_path
from mcc.data.base.work import Work
from mcc.data.presets import find_preset

OptionsT = TypeVar("OptionsT")


@dataclass(frozen=True)
class Rejected:
    """Why a text is not kept: one line, for a person."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """The options of a filter that has none."""


class Filter(ABC, Generic[OptionsT]):
    """Keeps a text, keeps it changed, or rejects it. The same text always gets the same answer.

    A subclass names its frozen dataclass of options in `Options` and says in its first line what it does.
    """

    Options: ClassVar[type[Any]] = NoOptions

    def __init__(self, options: OptionsT | None = None) -> None:
        self.options: OptionsT = options if options is not None else self.Options()

    @abstractmethod
    def keep(self, text: str) -> str | Rejected:
        """The text to go on with, or why there is none."""


FILTERS: Kind[Filter[Any]] = Kind("filter", "mcc.data.filters", Filter)


@dataclass(frozen=True, kw_only=True)
class CleanConfig:
    """Which filters, in which order, with which options.

    Args:
        filters: None for those of the preset.
        options: `{filter: {option: value}}`, over those of the preset; a filter that is not used is refused.

    Raises:
        UsageError: a filter, an option or the preset is unknown, or a value has a wrong type.
    """

    filters: tuple[str, ...] | None = option(None, "filters, applied in this order")
    preset: str | None = option(None, "named filters with their options; default: default")
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    workers: int = option(1, "processes that apply the filters")
    read: ReadConfig = field(default_factory=ReadConfig)

    def __post_init__(self) -> None:
        if self.filters is not None and self.preset is not None:
            raise UsageError("both filters and a preset", "leave one of them out")
        names, options = self.chain()
        if not names:
            raise UsageError("no filters given", f"known: {', '.join(FILTERS.names())}")
        if self.workers < 1:
            raise UsageError(f"workers = {self.workers} must be at least 1")
        for name in self.options:
            if name not in names:
                raise UsageError(f"options for filter {name!r}, which is not used", f"used: {', '.join(names)}")
        make_filters(names, options)

    def chain(self) -> tuple[tuple[str, ...], dict[str, dict[str, Any]]]:
        """The names of the filters, and their options.

        Raises:
            UsageError: the preset needs an option that is not given.
        """
        if self.filters is not None:
            return tuple(name.replace("_", "-") for name in self.filters), _merged(self.options)
        preset = find_preset(self.preset or "default")
        tokens = self.options.get("min-tokens", {})
        if preset.requires and not (tokens.get("tokenizer") or tokens.get("vocab_file")):
            raise UsageError(f"preset {self.preset} needs {preset.requires}")
        return preset.filters, _merged(preset.options, self.options)


def _merged(*given: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    merged: dict[str, dict[str, Any]] = {}
    for options in given:
        for name, values in options.items():
            merged.setdefault(name.replace("_", "-"), {}).update(values)
    return merged


@dataclass(frozen=True, kw_only=True)
class CleanReport(StepReport):
    """`changed` counts kept documents whose text is not what it was, by filter."""

    changed: dict[str, int]


def make_filters(
    names: Sequence[str], options: Mapping[str, Mapping[str, Any]] | None = None
) -> list[tuple[str, Filter[Any]]]:
    """The named filters with their options, in order.

    Raises:
        UsageError: a filter or an option is unknown, or a value is none that it takes.
    """
    made = []
    for name in names:
        cls = FILTERS.get(name)
        try:
            chosen = build(cls.Options, (options or {}).get(name, {}))
        except UsageError as error:
            what = error.what.removeprefix("configuration: ")
            raise UsageError(f"filter {name}: {what.removeprefix(f'{name}: ')}", error.hint) from None
        made.append((name, cls(chosen)))
    return made


# A text with the filters that changed it, or the filter that rejected it and why.
Verdict = tuple[str, tuple[str, ...]] | tuple[None, tuple[str, str]]


class Chain:
    """Filters one after the other; the first rejection ends it."""

    def __init__(self, filters: Sequence[tuple[str, Filter[Any]]]) -> None:
        self.filters = filters

    def judge(self, text: str) -> Verdict:
        """What becomes of `text`."""
        changed = []
        for name, filter in self.filters:
            kept = filter.keep(text)
            if isinstance(kept, Rejected):
                return None, (name, kept.reason)
            if kept != text:
                changed.append(name)
                text = kept
            if not text:
                return None, (name, "nothing is left of the text")
        return text, tuple(changed)


def clean(
    inputs: Sequence[str | Path],
    output: Path,
    config: CleanConfig | None = None,
    reporter: Reporter = SILENT,
    *,
    rejects: Path | None = None,
) -> CleanReport:
    """Apply filters to documents. Rejected ones, as they were, go to `rejects` with the reason.

    A document that no filter changes is written as it stands in the input.

    Args:
        rejects: default `OUTPUT.rejects.jsonl`, made when there is something to put into it.

    Raises:
        MccError: bad input (see `RecordSource`).
    """
    config = config or CleanConfig()
    return run(clean_job(inputs, output, config, rejects), config.workers, reporter)


def clean_job(
    inputs: Sequence[str | Path], output: Path, config: CleanConfig | None = None, rejects: Path | None = None
) -> Job[CleanReport]:
    """The step as a job: a phase that judges every document."""
    config = config or CleanConfig()
    names, options = config.chain()
    optional = rejects is None
    rejects = rejects or side_path(output, "rejects")
    outputs = [
        Output(rejects, phase="clean", stream="rejects", optional=optional),
        Output(records_path(output), phase="clean", stream="out"),
    ]

    def report(counts: Mapping[str, int], work: Work) -> CleanReport:
        changed = {key.partition(":")[2]: count for key, count in counts.items() if key.startswith("changed:")}
        return step_report(
            CleanReport,
            "clean",
            counts,
            work,
            outputs,
            config.read.max_errors,
            changed={name: changed[name] for name in names if name in changed},
        )

    return Job(
        name="clean",
        output=output,
        key=[names, options, plain(config.read)],
        phases=(
            Map(
                name="clean",
                source=RecordSource(inputs, config.read),
                make=partial(_Clean, names, options, config.read),
                streams={"out": output, "rejects": rejects},
            ),
        ),
        outputs=outputs,
        report=report,
    )


class _Clean:
    """Judges the documents of a block."""

    def __init__(
        self, names: Sequence[str], options: Mapping[str, Mapping[str, Any]], read: ReadConfig, work: Work
    ) -> None:
        self._chain = Chain(make_filters(names, options))
        self._read = read

    def __call__(self, block: Block, out: Part) -> None:
        key = self._read.keys[0]
        for where, line, record in block.records_and_lines(self._read, out):
            text, why = self._chain.judge(record[key])
            if text is None:
                out.reject(record, why[0], why[1], where)
            elif not why:
                out.keep_line(line.strip(), len(text))
            else:
                for name in why:
                    out.counts[f"changed:{name}"] += 1
                record[key] = text
                out.keep(record, len(text))
