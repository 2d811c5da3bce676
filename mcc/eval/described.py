"""A task without a line of Python: a TOML file says what the fields of a local file mean.

    data = "questions.jsonl"             # beside this file
    prompt = "{question}\\nAnswer:"
    choices = ["{first}", "{second}"]    # or the name of a field with a list: choices = "options"
    answer = "label"                     # a number from 0, a letter from A, or the right choice itself

A cloze task has `target = " {word}"` in the place of `choices` and `answer`. `metrics` may name some of acc, acc_norm
and perplexity.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mcc.core.config import read_toml
from mcc.core.errors import MccError
from mcc.core.files import require_file
from mcc.eval.task import Check, Record, Task, text, texts

SUFFIX = ".toml"
_FIELD = re.compile(r"\{(\w+)\}")
_KEYS = ("data", "prompt", "choices", "answer", "target", "metrics")
_CHOICE, _CLOZE = ("acc", "acc_norm"), ("acc", "perplexity")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def _anything(value: Any) -> str:
    """A text, or a number as one: a column of the harness's has one type."""
    if not isinstance(value, (str, int, float)) or isinstance(value, bool) or value == "":
        raise ValueError("must be a text or a number")
    return str(value)


class _Described(Task):
    """What `describe` made of a file."""

    online = False

    def __init__(self, file: Path, values: Mapping[str, Any]) -> None:
        self.file, self.values = file, values
        self.many = "choices" in values
        templates = [values["prompt"], values.get("target", "")]
        own = values.get("choices")
        templates += own if isinstance(own, list) else []
        names = dict.fromkeys(name for template in templates for name in _FIELD.findall(template))
        checks: dict[str, Check] = dict.fromkeys(names, _anything)
        if isinstance(own, str):
            checks[own] = texts
        if self.many:
            checks[values["answer"]] = _anything
        self.fields = checks  # type: ignore[misc]
        self.metrics = tuple(values.get("metrics") or (("acc", "acc_norm") if self.many else ("perplexity", "acc")))  # type: ignore[misc]

    def read(self, record: Record) -> dict[str, Any]:
        document = super().read(record)
        if self.many:
            document["answer number"] = self._answer(document)
        else:
            text(_fill(self.values["target"], document))
        return document

    def prompt(self, document: Record) -> str:
        return _fill(self.values["prompt"], document)

    def target(self, document: Record) -> Any:
        return document["answer number"] if self.many else _fill(self.values["target"], document)

    def choices(self, document: Record) -> list[str] | None:
        own = self.values["choices"]
        return list(document[own]) if isinstance(own, str) else [_fill(choice, document) for choice in own]

    def config(self, name: str) -> dict[str, Any]:
        found = super().config(name)
        if not self.many:
            found["output_type"] = "loglikelihood"
            del found["doc_to_choice"]
        return found

    def _answer(self, document: Record) -> int:
        value, choices = document[self.values["answer"]], self.choices(document) or []
        if value in choices:
            return choices.index(value)
        word = str(value).strip()
        number = int(word) if word.isdigit() else _LETTERS.find(word.upper()) if len(word) == 1 else -1
        if not 0 <= number < len(choices):
            last = _LETTERS[min(len(choices), len(_LETTERS)) - 1]
            raise ValueError(
                f"{self.values['answer']!r} must be a number from 0 to {len(choices) - 1}, a letter from A to {last}, "
                f"or a choice, not {value!r}"
            )
        return number


def describe(file: Path) -> tuple[Task, Path]:
    """The task that a TOML file describes, and the file of its documents.

    Raises:
        MccError: it cannot be read, or a key is missing, unknown or of the wrong kind.
    """
    values = read_toml(require_file(file, "task file"))
    unknown = [key for key in values if key not in _KEYS]
    if unknown:
        raise MccError(f"{file}: unknown key {unknown[0]!r}", f"known: {', '.join(_KEYS)}")
    for key in ("data", "prompt"):
        _text(file, values, key)
    if "choices" in values:
        own = values["choices"]
        if "target" in values:
            raise MccError(f"{file}: both choices and target", "choices with answer, or target")
        if not isinstance(own, str) and not (isinstance(own, list) and all(isinstance(item, str) for item in own)):
            raise MccError(f"{file}: choices must be the name of a field, or a list of texts")
        _text(file, values, "answer")
    else:
        _text(file, values, "target")
    known = _CHOICE if "choices" in values else _CLOZE
    wrong = [name for name in values.get("metrics", ()) if name not in known]
    if wrong:
        raise MccError(f"{file}: unknown metric {wrong[0]!r}", f"known here: {', '.join(known)}")
    return _Described(file, values), file.parent / values["data"]


def _text(file: Path, values: Mapping[str, Any], key: str) -> None:
    if not isinstance(values.get(key), str) or not values[key]:
        raise MccError(f"{file}: {key} must be a text", "see docs/evaluation.md for a whole one")


def _fill(template: str, document: Record) -> str:
    return _FIELD.sub(lambda found: str(document[found[1]]), template)
