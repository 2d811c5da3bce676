"""RACE (Lai et al. 2017): an article, questions, four answers each; from its folders of .txt or from lines of JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mcc.train.finetune.config import FinetuneConfig
from mcc.train.finetune.task import BadExample, Example, Record, Task, TaskFamily, first_of, text_of

_LETTERS = ("A", "B", "C", "D")


@dataclass(frozen=True, kw_only=True)
class _Race(Task):
    """As in Megatron-LM: question with answer first, the article second, which is cut when there is no room."""

    def examples(self, record: Record) -> Iterable[Example]:
        article = text_of(record, ("article",))
        if "questions" in record:
            found = list(zip(record["questions"], record["options"], record["answers"], strict=True))
        else:
            found = [(first_of(record, ("question",)), record.get("options"), first_of(record, ("answer",)))]
        for question, options, answer in found:
            if not isinstance(options, list) or len(options) != len(_LETTERS):
                raise BadExample(f"question {question!r} does not have four options")
            rows = tuple((_joined(str(question), str(option)), article) for option in options)
            yield Example(rows, self.class_of(answer))


def _joined(question: str, option: str) -> str:
    """The option in the question's gap, or behind it."""
    return question.replace("_", option) if "_" in question else f"{question} {option}"


class RaceFamily(TaskFamily):
    """RACE, of all schools, or of the middle or high ones alone."""

    def names(self) -> Sequence[str]:
        return ("race", "race-middle", "race-high")

    def task(self, name: str, config: FinetuneConfig) -> Task:
        schools = name.removeprefix("race-") if name != "race" else "*"
        return _Race(
            name=name,
            head="multiple-choice",
            labels=_LETTERS,
            train=(f"train/{schools}/*.txt", "train.jsonl"),
            valid=(("valid", (f"dev/{schools}/*.txt", "validation.jsonl", "dev.jsonl")),),
            first_text_tokens=128,
        )
