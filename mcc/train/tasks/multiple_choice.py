"""Any questions with the same number of choices, as lines of JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mcc.core.errors import UsageError
from mcc.train.finetune.config import FinetuneConfig
from mcc.train.finetune.task import BadExample, Example, Record, Task, TaskFamily, first_of, text_of


@dataclass(frozen=True, kw_only=True)
class _Choices(Task):
    context: str
    label: str

    def examples(self, record: Record) -> Iterable[Example]:
        context, choices = text_of(record, (self.context,)), first_of(record, ("choices", "options", "endings"))
        if not isinstance(choices, list) or len(choices) != len(self.labels):
            raise BadExample(f"choices are not a list of {len(self.labels)} texts")
        question = record.get("question")
        seconds = [f"{question} {choice}" if question else str(choice) for choice in choices]
        yield Example(
            tuple((context, second) for second in seconds), self.class_of(first_of(record, (self.label, "answer")))
        )


class MultipleChoice(TaskFamily):
    """Your own questions: {"context", "question" (or none), "choices": [...], "label": number or letter}."""

    columns = True

    def names(self) -> Sequence[str]:
        return ("multiple-choice",)

    def task(self, name: str, config: FinetuneConfig) -> Task:
        labels = tuple(word.strip() for word in (config.labels or "A,B,C,D").split(",") if word.strip())
        if len(labels) < 2:
            raise UsageError(f"--labels {config.labels}: a name for each choice", "for example A,B,C,D")
        return _Choices(
            name=name,
            head="multiple-choice",
            labels=labels,
            train=("train.jsonl",),
            valid=(("valid", ("dev.jsonl", "validation.jsonl")),),
            context=config.text_a or "context",
            label=config.label or "label",
        )
