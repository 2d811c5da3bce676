"""The task file `triviaqa`: `unfiltered-web-dev.json`, or rows with `question`."""

from __future__ import annotations

from mcc.data.ngrams.task_texts import TaskTexts


class TriviaQA(TaskTexts):
    """TriviaQA: questions."""

    places = ("Data[].Question", "Question", "question")
