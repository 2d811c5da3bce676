"""Prompts from a file, and continuations into one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mcc.core.errors import MccError
from mcc.core.files import atomic_path, require_file
from mcc.eval.records import records

_JSON = (".jsonl", ".json")


@dataclass(frozen=True)
class Prompt:
    """A text to go on from; the empty one is no prompt at all. `fields` come with it from a file and go with its
    continuations to another."""

    text: str = ""
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Completion:
    """A continuation.

    Args:
        prompt: what it continues.
        number: which prompt that was, from 0.
        sample: which of the prompt's continuations this is, from 0.
        text: the continuation alone, cut before what ended it.
        tokens: its tokens, that which ended it included.
        finish: `eos` (the model ended the text), `stop` (a stop string) or `length`.
        log_likelihood: of the tokens, in nats, by the model itself; of a beam with the repetition penalty.
        score: a beam's, by which it was chosen.
    """

    prompt: Prompt
    number: int
    sample: int
    text: str
    tokens: list[int]
    finish: str
    log_likelihood: float
    score: float | None = None

    def record(self) -> dict[str, Any]:
        """As a line of JSONL: the fields of the prompt's own record, and what is new."""
        found = {
            **self.prompt.fields,
            "prompt": self.prompt.text,
            "sample": self.sample,
            "text": self.text,
            "new_tokens": len(self.tokens),
            "finish": self.finish,
            "log_likelihood": self.log_likelihood,
        }
        return found if self.score is None else {**found, "score": self.score}


def read_prompts(file: str | Path, name: str = "prompt") -> list[Prompt]:
    """The prompts of a file: the field `name` of JSONL records (.jsonl, .json), or each line of a plain text.

    Raises:
        MccError: there is no such file, it has no prompt, or a record has none; names file and line.
    """
    path = require_file(file, "file of prompts")
    found = list(_records(path, name) if path.suffix in _JSON else _lines(path))
    if not found:
        raise MccError(f"{path} has no prompt", f'give JSONL with the field "{name}", or a text with one a line')
    return found


def write_completions(file: str | Path, completions: Sequence[Completion]) -> None:
    """A record for each, whole or not at all."""
    with atomic_path(file) as path, path.open("w", encoding="utf-8") as out:
        for completion in completions:
            out.write(json.dumps(completion.record(), ensure_ascii=False) + "\n")


def _lines(path: Path) -> Iterator[Prompt]:
    try:
        with path.open(encoding="utf-8") as lines:
            yield from (Prompt(line.rstrip("\r\n")) for line in lines if line.strip())
    except UnicodeDecodeError as error:
        raise MccError(f"{path} is no UTF-8 text: {error.reason}", "convert it") from None


def _records(path: Path, name: str) -> Iterator[Prompt]:
    for number, record in records(path):
        if not isinstance(record.get(name), str):
            has = ", ".join(map(repr, record)) or "none"
            raise MccError(f"{path}:{number}: no text {name!r} (has {has})", "name its field: --field NAME")
        yield Prompt(record[name], record)
