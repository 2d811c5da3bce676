"""The contract of a filter, and the step that applies filters in order.

A filter is one file in `mcc/data/filters`, its name is the file's. It looks at one text at a time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from mcc.core.config import build, option
from mcc.core.errors import UsageError
from mcc.core.events import SILENT, Reporter
from mcc.core.plugins import Kind
from mcc.data.documents import ReadConfig, Record
from mcc.data.step import Step, StepReport
from mcc.data.workers import ordered_map

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

DEFAULT_FILTERS = ("ftfy", "whitespace", "language", "min-chars")


@dataclass(frozen=True, kw_only=True)
class CleanConfig:
    """Which filters, in which order, with which options.

    Args:
        options: `{filter: {option: value}}`; a filter that is not among `filters` is refused.

    Raises:
        UsageError: a filter or an option is unknown, or a value has a wrong type.
    """

    filters: tuple[str, ...] = option(DEFAULT_FILTERS, "filters, applied in this order")
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    workers: int = option(1, "processes that apply the filters")
    read: ReadConfig = field(default_factory=ReadConfig)

    def __post_init__(self) -> None:
        if not self.filters:
            raise UsageError("no filters given", f"known: {', '.join(FILTERS.names())}")
        if self.workers < 1:
            raise UsageError(f"workers = {self.workers} must be at least 1")
        for name in self.options:
            if name not in self.filters:
                raise UsageError(f"options for filter {name!r}, which is not used", f"used: {', '.join(self.filters)}")
        make_filters(self.filters, self.options)


@dataclass(frozen=True, kw_only=True)
class CleanReport(StepReport):
    """`changed` counts kept documents whose text is not what it was, by filter."""

    changed: dict[str, int]


def make_filters(
    names: Sequence[str], options: Mapping[str, Mapping[str, Any]] | None = None
) -> list[tuple[str, Filter[Any]]]:
    """The named filters with their options, in order."""
    made = []
    for name in names:
        cls = FILTERS.get(name)
        made.append((name, cls(build(cls.Options, (options or {}).get(name, {})))))
    return made


# A text with the filters that changed it, or the filter that rejected it and why.
Verdict = tuple[str, tuple[str, ...]] | tuple[None, tuple[str, str]]


class Chain:
    """Filters one after the other; the first rejection ends it."""

    def __init__(self, filters: Sequence[tuple[str, Filter[Any]]]) -> None:
        self.filters = filters

    def __call__(self, texts: list[str]) -> list[Verdict]:
        return [self.judge(text) for text in texts]

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
    """Apply filters to documents. Rejected ones go to `rejects` with the reason.

    Args:
        rejects: default `OUTPUT.rejects.jsonl`, made when there is something to put into it.

    Raises:
        MccError: bad input (see `Reader`).
    """
    config = config or CleanConfig()
    key = config.read.keys[0]
    changed: dict[str, int] = {}
    step = Step("clean", inputs, output, read=config.read, rejects=rejects, reporter=reporter)
    make = partial(_make_chain, config.filters, config.options)
    waiting: list[list[tuple[Record, str]]] = []
    with step:
        # A worker takes and gives texts; the records wait here, as many as are under way.
        for verdicts in ordered_map(make, _batches(step, key, config.workers, waiting), config.workers):
            for (record, where), (text, why) in zip(waiting.pop(0), verdicts, strict=True):
                if text is None:
                    step.reject(record, why[0], why[1], where=where)
                    continue
                for name in why:
                    changed[name] = changed.get(name, 0) + 1
                step.write({**record, key: text})
    return step.report(CleanReport, changed=changed)


def _make_chain(names: Sequence[str], options: Mapping[str, Mapping[str, Any]]) -> Chain:
    return Chain(make_filters(names, options))


def _batches(step: Step, key: str, workers: int, waiting: list[list[tuple[Record, str]]]) -> Iterator[list[str]]:
    size = 1 if workers == 1 else 32
    batch: list[tuple[Record, str]] = []
    for record in step.records():
        batch.append((record, step.reader.where))
        if len(batch) >= size:
            waiting.append(batch)
            yield [record[key] for record, _ in batch]
            batch = []
    if batch:
        waiting.append(batch)
        yield [record[key] for record, _ in batch]
