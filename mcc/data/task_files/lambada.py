"""The task file `lambada`: `lambada_test.jsonl`, or `lambada_test_plain_text.txt`."""

from __future__ import annotations

from mcc.data.ngrams.task_texts import TaskTexts


class Lambada(TaskTexts):
    """LAMBADA: whole passages; lines of JSON with `text`, or plain text with a passage a line."""

    places = ("text",)
