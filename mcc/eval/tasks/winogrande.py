"""WinoGrande: which of two names fits a blank (Sakaguchi et al. 2019, arXiv 1907.10641).

Scored as Trinh and Le do (arXiv 1806.02847): both names are put into the blank, and the rest of the sentence is
scored after each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from mcc.eval.task import Check, Record, Task, number_below, text

_BLANK = "_"


class WinoGrande(Task):
    """Which of two names fits a blank. Fields: sentence (with one _), option1, option2, answer (1 or 2)."""

    fields: ClassVar[Mapping[str, Check]] = {
        "sentence": text,
        "option1": text,
        "option2": text,
        "answer": number_below(2, first=1),
    }
    metrics = ("acc",)

    def read(self, record: Record) -> dict[str, Any]:
        """A record whose sentence has a blank and goes on after it."""
        document = super().read(record)
        if not document["sentence"].partition(_BLANK)[2].strip():
            raise ValueError("'sentence' must have a blank '_' with words after it")
        return document

    def prompt(self, document: Record) -> int:
        """The number of the right name: the harness takes the contexts from `choices`."""
        return document["answer"]

    def target(self, document: Record) -> str:
        """The sentence after the blank."""
        return document["sentence"].partition(_BLANK)[2].strip()

    def choices(self, document: Record) -> list[str]:
        """The sentence up to the blank, with either name in it."""
        before = document["sentence"].partition(_BLANK)[0]
        return [before + document["option1"], before + document["option2"]]
