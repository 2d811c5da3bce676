"""LAMBADA: the last word of a passage (Paperno et al. 2016, arXiv 1606.06031; OpenAI's detokenised form)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from mcc.eval.task import Check, Record, Task, text


class Lambada(Task):
    """The last word of a passage: greedy accuracy, and perplexity of the word. Fields: text."""

    fields: ClassVar[Mapping[str, Check]] = {"text": text}
    metrics = ("perplexity", "acc")

    def prompt(self, document: Record) -> str:
        """The passage up to its last space."""
        return document["text"].rpartition(" ")[0]

    def target(self, document: Record) -> str:
        """A space and the last word."""
        return " " + document["text"].rpartition(" ")[2]
