"""MathQA: which of five answers solves a problem (Amini et al. 2019, arXiv 1905.13319)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from mcc.eval.task import Check, Record, Task, text

_LETTERS = "abcde"
# a ) 38 , b ) 27.675 , c ) 30 , d ) data inadequate , e ) none of these
_OPTION = re.compile(r"[abcd] \) .*?, |e \) .*?$")


def _options(value: Any) -> list[str]:
    """The answers of a line such as the one above."""
    found = [option[4:].rstrip(" ,") for option in _OPTION.findall(text(value))]
    if len(found) != len(_LETTERS) or not all(found):
        raise ValueError("must be five answers, such as a ) 1 , b ) 2 , c ) 3 , d ) 4 , e ) 5")
    return found


def _letter(value: Any) -> int:
    """The number of an answer's letter."""
    if not isinstance(value, str) or len(value) != 1 or value not in _LETTERS:
        raise ValueError("must be a letter from a to e")
    return _LETTERS.index(value)


class MathQa(Task):
    """Which of five answers solves a problem. Fields: Problem, options (a ) ... , b ) ... , ...), correct (a to e)."""

    fields: ClassVar[Mapping[str, Check]] = {"Problem": text, "options": _options, "correct": _letter}
    metrics = ("acc", "acc_norm")

    def prompt(self, document: Record) -> str:
        """The problem, and the word before its answer."""
        return f"Question: {document['Problem']}\nAnswer:"

    def target(self, document: Record) -> Any:
        """Number of the right answer."""
        return document["correct"]

    def choices(self, document: Record) -> list[str]:
        """The answers."""
        found: list[str] = document["options"]
        return found
