"""PIQA: which of two solutions reaches a goal (Bisk et al. 2019, arXiv 1911.11641)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from mcc.eval.task import Check, Record, Task, number_below, text


class Piqa(Task):
    """Which of two solutions reaches a goal. Fields: goal, sol1, sol2, label (0 or 1)."""

    fields: ClassVar[Mapping[str, Check]] = {"goal": text, "sol1": text, "sol2": text, "label": number_below(2)}
    metrics = ("acc", "acc_norm")

    def prompt(self, document: Record) -> str:
        """The goal as a question."""
        return f"Question: {document['goal']}\nAnswer:"

    def target(self, document: Record) -> int:
        """Number of the right solution."""
        return document["label"]

    def choices(self, document: Record) -> list[str]:
        """Both solutions."""
        return [document["sol1"], document["sol2"]]
