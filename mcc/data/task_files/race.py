"""The task file `race`: the folder `RACE/test` with a JSON object in each `.txt`, or rows with `question`."""

from __future__ import annotations

from mcc.data.ngrams.task_texts import TaskTexts


class Race(TaskTexts):
    """RACE: questions; a folder of articles with theirs, or rows."""

    places = ("questions[]", "question")
