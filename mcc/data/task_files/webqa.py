"""The task file `webqa`: `webquestions.examples.test.json`, a list, or rows with `question`."""

from __future__ import annotations

from mcc.data.ngrams.task_texts import TaskTexts


class WebQA(TaskTexts):
    """WebQuestions: questions."""

    places = ("utterance", "question")
