"""The task contract: which fields a local file has, and how lm-evaluation-harness scores them.

A task is one file of `mcc/eval/tasks`; its name is the task's. It says what it reads (`fields`) and what is scored
(`prompt`, `target`, and `choices` for multiple choice); the harness makes requests and metrics of that.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from mcc.core.errors import MccError
from mcc.core.files import require_file
from mcc.core.plugins import Kind
from mcc.eval.records import records, short

Record = Mapping[str, Any]
# Checks a field's value and gives it in its plain form; raises ValueError("must be ...").
Check = Callable[[Any], Any]


def text(value: Any) -> str:
    """A string with something in it."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be a text that is not empty")
    return value


def texts(value: Any) -> list[str]:
    """Two strings or more."""
    if not isinstance(value, list) or len(value) < 2:
        raise ValueError("must be a list of two texts or more")
    return [text(item) for item in value]


def number_below(count: int, first: int = 0) -> Check:
    """One of `count` whole numbers from `first`, as a number or as digits; given back counted from 0."""

    def check(value: Any) -> int:
        digits = str(value)
        if isinstance(value, bool) or not digits.isdigit() or not first <= int(digits) < first + count:
            raise ValueError(f"must be a number from {first} to {first + count - 1}")
        return int(digits) - first

    return check


class Task(ABC):
    """How documents of a local JSONL file are scored.

    Attributes:
        fields: field of a record -> its check. Other fields are left alone.
        metrics: the harness's metrics for it; `perplexity` is over targets, `acc_norm` divides by characters.
        online: whether the harness has a task of this name, with data that it downloads.
    """

    fields: ClassVar[Mapping[str, Check]]
    metrics: ClassVar[tuple[str, ...]] = ("acc",)
    online: ClassVar[bool] = True

    def read(self, record: Record) -> dict[str, Any]:
        """The document of one record, its fields checked.

        Raises:
            ValueError: a field is missing or has a wrong value; says which.
        """
        document = {}
        for name, check in self.fields.items():
            if name not in record:
                raise ValueError(f"no field {name!r} (has {', '.join(map(repr, record)) or 'none'})")
            try:
                document[name] = check(record[name])
            except ValueError as error:
                raise ValueError(f"{name!r} {error}, not {short(record[name])}") from None
        return document

    @abstractmethod
    def prompt(self, document: Record) -> Any:
        """What the model reads before it is scored."""

    @abstractmethod
    def target(self, document: Record) -> Any:
        """What is scored (`output_type` loglikelihood), or the number of the right choice."""

    def choices(self, document: Record) -> list[str] | None:
        """The answers of a multiple-choice task; None makes it a log-likelihood task."""
        return None

    def config(self, name: str) -> dict[str, Any]:
        """The harness's configuration of this task, without its data."""
        multiple = type(self).choices is not Task.choices
        lower = ("perplexity",)
        return {
            "task": name,
            "output_type": "multiple_choice" if multiple else "loglikelihood",
            "test_split": "test",
            "fewshot_split": "test",  # examples come from the same file; a document is never its own example
            "doc_to_text": self.prompt,
            "doc_to_target": self.target,
            **({"doc_to_choice": self.choices} if multiple else {}),
            "metric_list": [
                {
                    "metric": metric,
                    "aggregation": "perplexity" if metric in lower else "mean",
                    "higher_is_better": metric not in lower,
                }
                for metric in self.metrics
            ],
            "metadata": {"version": 1.0},
        }


tasks: Kind[Task] = Kind("task", "mcc.eval.tasks", Task)


def read_documents(task: Task, file: str | Path) -> list[dict[str, Any]]:
    """Every document of a JSONL file.

    Raises:
        MccError: no such file, no documents in it, a line that is not a JSON object, or a field that is missing or
            wrong: names the line.
    """
    documents = []
    for line, record in records(require_file(file, "task file")):
        try:
            documents.append(task.read(record))
        except ValueError as error:
            raise MccError(f"{file}:{line}: {error}", f"a record has the fields {', '.join(task.fields)}") from None
    if not documents:
        raise MccError(f"{file} is empty: there is nothing to score", "give a JSONL file, one document a line")
    return documents
