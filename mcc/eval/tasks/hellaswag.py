"""HellaSwag: which ending follows a scene (Zellers et al. 2019, arXiv 1905.07830)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar

from mcc.eval.task import Check, Record, Task, number_below, text, texts


def _clean(passage: str) -> str:
    """Without WikiHow's marks: `[title]` ends a sentence, other brackets go."""
    passage = passage.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", passage).replace("  ", " ")


def _any_text(value: object) -> str:
    """A string; half of the scenes have no second part."""
    if not isinstance(value, str):
        raise ValueError("must be a text")
    return value


class HellaSwag(Task):
    """Which of four endings follows a scene. Fields: activity_label, ctx_a, ctx_b, endings, label (0 to 3)."""

    fields: ClassVar[Mapping[str, Check]] = {
        "activity_label": text,
        "ctx_a": _any_text,
        "ctx_b": _any_text,
        "endings": texts,
        "label": number_below(4),
    }
    metrics = ("acc", "acc_norm")

    def prompt(self, document: Record) -> str:
        """The activity and the scene."""
        scene = f"{document['ctx_a']} {document['ctx_b'].capitalize()}"
        return _clean(f"{document['activity_label']}: {scene}")

    def target(self, document: Record) -> int:
        """Number of the right ending."""
        return document["label"]

    def choices(self, document: Record) -> list[str]:
        """The endings."""
        return [_clean(ending) for ending in document["endings"]]
