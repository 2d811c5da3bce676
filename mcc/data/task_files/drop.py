"""The task file `drop`: `drop_dataset_dev.json`, or rows with `question`."""

from __future__ import annotations

from mcc.data.ngrams.task_texts import TaskTexts


class Drop(TaskTexts):
    """DROP: questions."""

    places = ("*.qa_pairs[].question", "qa_pairs[].question", "question")
