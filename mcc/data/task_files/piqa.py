"""The task file `piqa`: `tests.jsonl` or `valid.jsonl`."""

from __future__ import annotations

from mcc.data.ngrams.task_texts import TaskTexts


class Piqa(TaskTexts):
    """PIQA: goals."""

    places = ("goal",)
