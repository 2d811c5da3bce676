"""The task file `squad`: `dev-v2.0.json`, or rows with `question`."""

from __future__ import annotations

from mcc.data.ngrams.task_texts import TaskTexts


class Squad(TaskTexts):
    """SQuAD 1.1 and 2.0: questions."""

    places = ("data[].paragraphs[].qas[].question", "question")
