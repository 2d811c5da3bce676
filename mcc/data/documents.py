"""Documents read as records: a dict with a `text` and whatever else its line holds.

Bad lines are counted and set aside up to `max_errors`; one more ends the step before any output has its name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson

from mcc.core.config import option
from mcc.core.errors import MccError, UsageError
from mcc.data.plaintext import split_documents
from mcc.data.streams import COMPRESSIONS, content_suffix, expand, lines

Record = dict[str, Any]

JSONL = (".jsonl", ".json", ".ndjson")
TEXT = (".txt", ".text")
DUMP = (".xml",)
_BOM = b"\xef\xbb\xbf"
_SHOWN_BYTES = 2000


@dataclass(frozen=True, kw_only=True)
class ReadConfig:
    """How records are read.

    Raises:
        UsageError: `on_error` is unknown or `max_errors` is negative.
    """

    keys: tuple[str, ...] = option(("text",), "keys that must hold text")
    on_error: Literal["reject", "fail"] = option("reject", "set bad lines aside, or stop at the first")
    max_errors: int = option(0, "bad lines that are set aside; one more and the step fails")

    def __post_init__(self) -> None:
        if self.on_error not in ("reject", "fail"):
            raise UsageError(f"on_error = {self.on_error!r}", "reject or fail")
        if self.max_errors < 0:
            raise UsageError(f"max_errors = {self.max_errors} must not be negative")
        if not self.keys:
            raise UsageError("no keys to read")


@dataclass(frozen=True)
class BadLine:
    """A line that is no record: where (`FILE:LINE`), why, and what it began with."""

    where: str
    reason: str
    line: str


class Reader:
    """Iterates over the records of files in order.

    Args:
        inputs: `.jsonl` (`.json`, `.ndjson`) or plain `.txt`, also as `.gz`, `.bz2`, `.zst`; glob patterns.
        config: what counts as a record, and how many bad lines are tolerated.

    Attributes:
        where: `FILE:LINE` of the record given last.
        bad: tolerated bad lines that nobody has taken yet; `bad_lines` counts all.

    Raises:
        MccError: a file is missing or damaged, or there are more than `max_errors` bad lines.
        UsageError: a file's ending is of no known format.
    """

    def __init__(self, inputs: Sequence[str | Path], config: ReadConfig | None = None) -> None:
        self.config = config or ReadConfig()
        self.paths = expand(inputs)
        self.where = ""
        self.bad: list[BadLine] = []
        self.bad_lines = 0
        for path in self.paths:
            _check_format(path)

    def __iter__(self) -> Iterator[Record]:
        for path in self.paths:
            if content_suffix(path) in TEXT:
                yield from self._texts(path)
            else:
                yield from self._json_lines(path)

    def _json_lines(self, path: Path) -> Iterator[Record]:
        keys = self.config.keys
        for number, line in lines(path):
            if number == 1:
                line = line.removeprefix(_BOM)
            if not line or line.isspace():
                continue
            self.where = f"{path}:{number}"
            try:
                record = parse(line, keys)
            except ValueError as error:
                self._set_aside(str(error), line)
            else:
                yield record

    def _texts(self, path: Path) -> Iterator[Record]:
        if self.config.keys != ("text",):
            raise UsageError(f"{path}: plain text has no keys but 'text'", "give JSONL files")
        for number, text in split_documents(self._decoded(path)):
            self.where = f"{path}:{number}"
            yield {"id": f"{path.name}:{number}", "text": text}

    def _decoded(self, path: Path) -> Iterator[tuple[int, str]]:
        for number, line in lines(path):
            try:
                yield number, (line.removeprefix(_BOM) if number == 1 else line).decode()
            except UnicodeDecodeError as error:
                self.where = f"{path}:{number}"
                self._set_aside(f"not UTF-8 at byte {error.start + 1} of the line", line)

    def _set_aside(self, reason: str, line: bytes) -> None:
        self.bad_lines += 1
        if self.config.on_error == "fail" or self.bad_lines > self.config.max_errors:
            what = f"{self.where}: {reason}"
            if self.bad_lines > 1 and self.config.on_error == "reject":
                what += f"; that is bad line {self.bad_lines}, more than max-errors {self.config.max_errors}"
            raise MccError(what, "correct the line, or tolerate more with --max-errors N")
        self.bad.append(BadLine(self.where, reason, line[:_SHOWN_BYTES].decode(errors="backslashreplace")))


def parse(line: bytes, keys: Sequence[str] = ("text",)) -> Record:
    """The record in one line of JSON.

    >>> parse(b'{"text": "a", "id": 7}')
    {'text': 'a', 'id': 7}

    Raises:
        ValueError: it is not JSON, not an object, or a key is missing or holds no text; says which.
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
    return record


def _invalid_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return True
    return False


def _json_type(value: object) -> str:
    names = {dict: "an object", list: "an array", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _check_format(path: Path) -> None:
    suffix = content_suffix(path)
    if suffix in JSONL or suffix in TEXT:
        return
    if suffix in DUMP:
        raise UsageError(f"{path} is a MediaWiki dump", f"first turn it into text: mcc data wiki {path} -o pages.jsonl")
    known = ", ".join((*JSONL, *TEXT))
    raise UsageError(f"{path}: unknown format {suffix!r}", f"known: {known}, each also with {', '.join(COMPRESSIONS)}")
