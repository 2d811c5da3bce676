"""Cloze: a text with its last word held out, or any context and target. LAMBADA's scoring on your own texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from mcc.eval.task import Check, Record, Task, text


class Cloze(Task):
    """The held-out end of a text: greedy accuracy and perplexity. Fields: context, target; or text."""

    fields: ClassVar[Mapping[str, Check]] = {"context": text, "target": text}
    metrics = ("perplexity", "acc")
    online = False

    def read(self, record: Record) -> dict[str, Any]:
        """`context` and `target` as they stand, or `text` cut at its last white space."""
        if "text" in record and "target" not in record:
            try:
                words = text(record["text"]).rsplit(maxsplit=1)
            except ValueError as error:
                raise ValueError(f"'text' {error}") from None
            if len(words) < 2:
                raise ValueError("'text' must have two words or more")
            return {"context": words[0], "target": words[1]}
        return super().read(record)

    def prompt(self, document: Record) -> str:
        """The context without trailing white space."""
        return document["context"].rstrip()

    def target(self, document: Record) -> str:
        """A space and the target."""
        return " " + document["target"].strip()
