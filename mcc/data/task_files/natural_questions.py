"""The task file `natural-questions`: `v1.0-simplified_nq-dev-all.jsonl.gz`, `NQ-open.dev.jsonl`, or `question.text`."""

from __future__ import annotations

from mcc.data.ngrams.task_texts import TaskTexts


class NaturalQuestions(TaskTexts):
    """Natural Questions, simplified, whole or open: questions."""

    places = ("question_text", "question.text", "question")
