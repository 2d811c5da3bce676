"""One line of JSON as a record: a dict with a `text` and whatever else the line holds."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from mcc.core.config import option
from mcc.core.errors import UsageError

Record = dict[str, Any]

JSONL = (".jsonl", ".json", ".ndjson")
TEXT = (".txt", ".text")
PARQUET = (".parquet",)
DUMP = (".xml",)
BOM = b"\xef\xbb\xbf"
# Of a bad line so much is kept to show it by.
SHOWN_BYTES = 2000
# Several times as fast as to count such pairs of bytes.
_COLONS = re.compile(rb'" ?:').findall


@dataclass(frozen=True, kw_only=True)
class ReadConfig:
    """How records are read.

    Raises:
        UsageError: `on_error` is unknown or `max_errors` is negative.
    """

    keys: tuple[str, ...] = option(("text",), "keys that must hold text")
    on_error: Literal["reject", "fail"] = option("reject", "set bad lines aside, or stop at the first")
    max_errors: int = option(0, "with more bad lines than this the command ends with an error")
    block_bytes: int = option(4 << 20, "bytes of input that are worked on at once")
    max_line_bytes: int = option(256 << 20, "longer lines are bad lines; they are not held in memory")

    def __post_init__(self) -> None:
        if self.on_error not in ("reject", "fail"):
            raise UsageError(f"on_error = {self.on_error!r}", "reject or fail")
        if self.max_errors < 0:
            raise UsageError(f"max_errors = {self.max_errors} must not be negative")
        for name in ("block_bytes", "max_line_bytes"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} = {getattr(self, name)} must be at least 1")
        if not self.keys:
            raise UsageError("no keys to read")


@dataclass(frozen=True)
class BadLine:
    """A line that is no record: where (`FILE:LINE`), why, and what it began with."""

    where: str
    reason: str
    line: str


def parse(line: bytes, keys: Sequence[str] = ("text",)) -> Record:
    """The record in one line of JSON.

    >>> parse(b'{"text": "a", "id": 7}')
    {'text': 'a', 'id': 7}

    Raises:
        ValueError: it is not JSON, not an object, has a key twice, or a key is missing or holds no text; says which.
    """
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        reason = re.sub(r":? line 1 column \d+ \(char \d+\)$", "", str(error))
        if "surrogate" in reason or _invalid_utf8(line):
            reason = "a lone surrogate or invalid UTF-8"
        raise ValueError(f"not JSON at column {error.colno}: {reason}") from None
    if not isinstance(record, dict):
        raise ValueError(f"not a JSON object but {_json_type(record)}")
    for key in keys:
        if key not in record:
            raise ValueError(f"no key {key!r} (there is {', '.join(map(repr, record)) or 'none'})")
        if not isinstance(record[key], str):
            raise ValueError(f"key {key!r} holds {_json_type(record[key])}, not text")
    # The parser takes the last of equal keys. Colons behind quotes that are not escaped are nearly always those of
    # keys: counting them tells which lines are worth a slow look.
    colons = len(_COLONS(line))
    if colons > len(record) and colons - line.count(b'\\":') > len(record):
        _refuse_repeated_keys(line)
    return record


def _refuse_repeated_keys(line: bytes) -> None:
    def checked(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            raise ValueError(f"key {next(name for name in found if names.count(name) > 1)!r} stands there twice")
        return found

    json.loads(line, object_pairs_hook=checked)


def _invalid_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return True
    return False


def _json_type(value: object) -> str:
    names = {dict: "an object", list: "an array", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
