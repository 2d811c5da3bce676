"""The task file `coqa`: `coqa-dev-v1.0.json`, or rows with `questions`."""

from __future__ import annotations

from mcc.data.ngrams.task_texts import TaskTexts


class Coqa(TaskTexts):
    """CoQA: the questions of every conversation."""

    places = ("data[].questions[].input_text", "questions[].input_text", "questions[]")
