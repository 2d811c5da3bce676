"""Lines of JSON, as tasks, texts and prompts are read from files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mcc.core.errors import MccError


def records(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, JSON object) of a JSONL file; blank lines are skipped.

    Raises:
        MccError: a line is not a JSON object in UTF-8; names the line.
    """
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                at = f"{error.msg} at column {error.colno}"
                raise MccError(f"{file}:{number}: not JSON: {at}", "one JSON object a line, UTF-8") from None
            except UnicodeDecodeError as error:
                raise MccError(f"{file}:{number}: not JSON: {error.reason}", "one JSON object a line, UTF-8") from None
            if not isinstance(record, dict):
                raise MccError(f"{file}:{number}: not a JSON object: {short(record)}", "one JSON object a line")
            yield number, record


def short(value: Any) -> str:
    """A value as it is shown in an error's line."""
    shown = repr(value)
    return shown if len(shown) <= 40 else f"{shown[:37]}..."
