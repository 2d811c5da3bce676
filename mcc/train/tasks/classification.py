"""Any classification of a text or of a pair, or a number said of it: columns and classes are options."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mcc.core.errors import UsageError
from mcc.train.finetune.config import FinetuneConfig
from mcc.train.finetune.task import Example, Record, Task, TaskFamily, first_of, text_of


@dataclass(frozen=True, kw_only=True)
class _Columns(Task):
    text_a: str
    text_b: str | None
    label: str

    @property
    def columns(self) -> frozenset[str]:
        return frozenset((self.text_a, self.label))

    def examples(self, record: Record) -> Iterable[Example]:
        second = None if self.text_b is None else text_of(record, (self.text_b,))
        yield Example(((text_of(record, (self.text_a,)), second),), self.class_of(first_of(record, (self.label,))))


class Classification(TaskFamily):
    """Your own texts: --text-a COLUMN [--text-b COLUMN] --label COLUMN [--labels a,b,c]."""

    columns = True

    def names(self) -> Sequence[str]:
        return ("classification",)

    def task(self, name: str, config: FinetuneConfig) -> Task:
        if config.text_a is None:
            raise UsageError("--task classification needs the column of the text", "--text-a COLUMN")
        labels = tuple(word.strip() for word in (config.labels or "").split(",") if word.strip())
        if len(labels) == 1 or len(set(labels)) < len(labels):
            raise UsageError(f"--labels {config.labels}: two or more different names", "or none, for a number")
        return _Columns(
            name=name,
            labels=labels,
            metrics=("accuracy",) if labels else ("pearson", "spearman"),
            text_a=config.text_a,
            text_b=config.text_b,
            label=config.label or "label",
        )
