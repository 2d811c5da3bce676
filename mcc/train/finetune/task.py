"""What a task is: where its files are, how a line becomes an example, and how it is scored."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from mcc.core.errors import UsageError, unknown
from mcc.core.plugins import Kind
from mcc.train.finetune.config import FinetuneConfig

Record = Mapping[str, Any]


class BadExample(ValueError):
    """A line that is no example; the message says why."""


@dataclass(frozen=True)
class Example:
    """One sample: (first text, second text or None) of each row, and the number of the class, or a number."""

    rows: tuple[tuple[str, str | None], ...]
    label: int | float


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """A task.

    Args:
        name: as `--task` knows it.
        head: the model's head.
        labels: the classes' names; empty: the label is a number. For multiple choice, one of each choice.
        metrics: names of `mcc.train.finetune.metrics`.
        train: names of its training file in its folder, the first that is there.
        valid: names of what is scored -> names of files, the first that is there.
        header: the columns of a .tsv without a header line.
        first_text_tokens: the first text is cut to so many tokens.
        max_errors: so many bad lines are left out; files of the task are known to have some.
    """

    name: str
    head: Literal["classification", "multiple-choice"] = "classification"
    labels: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ("accuracy",)
    train: tuple[str, ...] = ("train.tsv", "train.jsonl")
    valid: tuple[tuple[str, tuple[str, ...]], ...] = (("valid", ("dev.tsv", "dev.jsonl", "validation.jsonl")),)
    header: tuple[str, ...] = ()
    first_text_tokens: int | None = None
    max_errors: int = 0

    @property
    def rows(self) -> int:
        """Rows of an example: choices, or 1."""
        return len(self.labels) if self.head == "multiple-choice" else 1

    @property
    def columns(self) -> frozenset[str]:
        """Names by which a header line is known."""
        return frozenset(self.header)

    @abstractmethod
    def examples(self, record: Record) -> Iterable[Example]:
        """The examples of a line: one, or one for each of its questions.

        Raises:
            BadExample: it is none.
        """

    def class_of(self, value: Any) -> int | float:
        """The label of a file as a number.

        Raises:
            BadExample: it is no label.
        """
        text = str(value).strip()
        if not self.labels:
            try:
                return float(text)
            except ValueError:
                raise BadExample(f"label {text!r} is not a number") from None
        if text in self.labels:
            return self.labels.index(text)
        number = self.numbered(text)
        if number is None:
            raise BadExample(f"label {text!r} is none of {', '.join(self.labels)}")
        return number

    def numbered(self, text: str) -> int | None:
        """The class of a label that is a number."""
        return int(text) if text.isdigit() and int(text) < len(self.labels) else None


class TaskFamily(ABC):
    """Tasks that are read alike. One file of `mcc/train/tasks` each.

    Attributes:
        columns: whether `--text-a` and its like say what the columns are.
    """

    columns: ClassVar[bool] = False

    @abstractmethod
    def names(self) -> Sequence[str]:
        """The tasks of the family."""

    @abstractmethod
    def task(self, name: str, config: FinetuneConfig) -> Task:
        """The task of a name, with what the configuration says about it.

        Raises:
            UsageError: the configuration does not say enough.
        """


task_families: Kind[TaskFamily] = Kind("task family", "mcc.train.tasks", TaskFamily)


def task_names() -> list[str]:
    """The name of every task."""
    return sorted(name for _, family in task_families.all() for name in family().names())


def find_task(config: FinetuneConfig) -> Task:
    """The task that a configuration names.

    Raises:
        UsageError: there is none of that name; the nearest is suggested.
    """
    assert config.task is not None
    wanted = config.task.lower().replace("_", "-")
    for _, family in task_families.all():
        if wanted in family().names():
            given = [name for name in ("text_a", "text_b", "label", "labels") if getattr(config, name) is not None]
            if given and not family.columns:
                flag = given[0].replace("_", "-")
                raise UsageError(f"--{flag} has no effect: task {wanted} knows its columns", "--task classification")
            task = family().task(wanted, config)
            metrics = tuple(word.strip() for word in (config.task_metrics or "").split(",") if word.strip())
            return dataclasses.replace(task, metrics=metrics) if metrics else task
    raise unknown("task", config.task, task_names())


def first_of(record: Record, names: Sequence[str]) -> Any:
    """The value of the first column that is there.

    Raises:
        BadExample: none is.
    """
    for name in names:
        if record.get(name) is not None:
            return record[name]
    raise BadExample(f"no column {' or '.join(names)}")


def text_of(record: Record, names: Sequence[str]) -> str:
    """The text of the first column that is there.

    Raises:
        BadExample: none is, or it is empty.
    """
    value = first_of(record, names)
    if not isinstance(value, str) or not value.strip():
        raise BadExample(f"column {' or '.join(names)} is not a text")
    return value
