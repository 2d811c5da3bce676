"""The task file `jsonl`: any JSON or lines of JSON."""

from __future__ import annotations

from mcc.data.ngrams.task_texts import TaskTexts


class AnyFile(TaskTexts):
    """Any file: `text`, or the place that is named."""

    places = ("text",)
