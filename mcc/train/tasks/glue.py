"""The nine tasks of GLUE (Wang et al. 2019), from the files of its own distribution or from lines of JSON.

JSON has transformers' keys (`sentence1`, `sentence2`, `label`, ...) with labels by name or by number. MNLI's classes
are numbered as Megatron-LM does; numbers in a file mean what they mean in the Hugging Face data set.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mcc.train.finetune.config import FinetuneConfig
from mcc.train.finetune.task import Example, Record, Task, TaskFamily, first_of, text_of

_JSON = ("validation.jsonl", "dev.jsonl")


@dataclass(frozen=True, kw_only=True)
class _GlueTask(Task):
    """Columns have a name in GLUE's own files, and another in the Hugging Face data set."""

    text_a: tuple[str, ...]
    text_b: tuple[str, ...] = ()
    label: tuple[str, ...] = ("label",)
    numbers: tuple[str, ...] = ()

    @property
    def columns(self) -> frozenset[str]:
        return frozenset((*self.text_a, *self.text_b))

    def examples(self, record: Record) -> Iterable[Example]:
        first = text_of(record, self.text_a)
        second = text_of(record, self.text_b) if self.text_b else None
        yield Example(((first, second),), self.class_of(first_of(record, self.label)))

    def numbered(self, text: str) -> int | None:
        number = super().numbered(text)
        return number if number is None or not self.numbers else self.labels.index(self.numbers[number])


_FIRST, _SECOND = ("sentence1",), ("sentence2",)
_ENTAILMENT = ("entailment", "not_entailment")

_TASKS = (
    _GlueTask(
        name="cola",
        labels=("unacceptable", "acceptable"),
        metrics=("matthews", "accuracy"),
        text_a=("sentence",),
        header=("source", "label", "star", "sentence"),
    ),
    _GlueTask(name="sst2", labels=("negative", "positive"), text_a=("sentence",)),
    _GlueTask(
        name="mrpc",
        labels=("not_equivalent", "equivalent"),
        metrics=("accuracy", "f1"),
        text_a=("#1 String", "sentence1"),
        text_b=("#2 String", "sentence2"),
        label=("Quality", "label"),
        train=("train.tsv", "train.jsonl", "msr_paraphrase_train.txt"),
        valid=(("valid", ("dev.tsv", *_JSON, "msr_paraphrase_test.txt")),),
    ),
    _GlueTask(name="stsb", metrics=("pearson", "spearman"), label=("score", "label"), text_a=_FIRST, text_b=_SECOND),
    _GlueTask(
        name="qqp",
        labels=("not_duplicate", "duplicate"),
        metrics=("accuracy", "f1"),
        text_a=("question1",),
        text_b=("question2",),
        label=("is_duplicate", "label"),
        # Some lines of the distributed file are broken, and some questions empty.
        max_errors=200,
    ),
    _GlueTask(
        name="mnli",
        labels=("contradiction", "entailment", "neutral"),
        numbers=("entailment", "neutral", "contradiction"),
        label=("gold_label", "label"),
        text_a=("sentence1", "premise"),
        text_b=("sentence2", "hypothesis"),
        valid=(
            ("matched", ("dev_matched.tsv", "validation_matched.jsonl")),
            ("mismatched", ("dev_mismatched.tsv", "validation_mismatched.jsonl")),
        ),
    ),
    _GlueTask(name="qnli", labels=_ENTAILMENT, text_a=("question",), text_b=("sentence",)),
    _GlueTask(name="rte", labels=_ENTAILMENT, text_a=_FIRST, text_b=_SECOND),
    _GlueTask(name="wnli", labels=_ENTAILMENT[::-1], text_a=_FIRST, text_b=_SECOND),
)
_ALIASES = {"sst-2": "sst2", "sts-b": "stsb"}


class Glue(TaskFamily):
    """GLUE: CoLA, SST-2, MRPC, STS-B, QQP, MNLI, QNLI, RTE and WNLI."""

    def names(self) -> Sequence[str]:
        return [*(task.name for task in _TASKS), *_ALIASES]

    def task(self, name: str, config: FinetuneConfig) -> Task:
        wanted = _ALIASES.get(name, name)
        return next(task for task in _TASKS if task.name == wanted)
