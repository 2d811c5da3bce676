"""Where the texts of an evaluation task stand in its published files; one file a task in `mcc/data/task_files`.

A place is a path of keys: `data[].paragraphs[].qas[].question` goes through every element of a list, `*` through every
value of an object. Which text counts is Megatron-LM's choice: questions for the question-answering tasks, not the
passages that they are asked about.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import orjson

from mcc.core.errors import MccError, UsageError
from mcc.core.plugins import Kind
from mcc.data.base.blocks import RecordSource
from mcc.data.base.part import Part
from mcc.data.base.records import BOM, PARQUET, ReadConfig
from mcc.data.base.streams import COMPRESSIONS, content_suffix, expand, open_input, telling_damage

_WHOLE = (".json", ".txt", "")
_TEXT = (".txt", "")


class TaskTexts:
    """The texts of a task. A subclass names the places, the published format's first; its first line is for people."""

    places: ClassVar[tuple[str, ...]] = ()
    needs_file: ClassVar[bool] = True

    def texts(self, path: str | None, key: str | None = None, name: str = "") -> Iterator[str]:
        """Every text.

        Args:
            path: a file, a folder of files, or a pattern: JSON, lines of JSON, Parquet, plain text with one a line.
            key: the place of the text, when it is not where the task has it.
            name: what stands behind the colon in `NAME:...`, for tasks that are many.

        Raises:
            MccError: the file is not what the task's files are; says where.
        """
        assert path is not None
        places = (key,) if key is not None else self.places
        for where, value in values(path):
            if isinstance(value, str):
                yield value
                continue
            found = next((texts for place in places if (texts := list(follow(value, place)))), None)
            if found is None:
                has = ", ".join(map(repr, value)) if isinstance(value, dict) else "no object"
                raise MccError(
                    f"{where}: no text under {' or '.join(places)} (there is {has[:200] or 'nothing'})",
                    "is it the task's file? --task-key names another place",
                )
            yield from found


TASK_FILES: Kind[TaskTexts] = Kind("decontamination task", "mcc.data.task_files", TaskTexts)


@dataclass(frozen=True, kw_only=True)
class TaskFile:
    """A task, and where its texts are.

    Args:
        name: of a task in `mcc/data/task_files`; `jsonl` for any file; `lm-eval:NAME` for a task of the harness.
        path: its file or folder.
        key: the place of the text, when it is not the task's own.

    Raises:
        UsageError: no task has that name, or it needs a file.
    """

    name: str
    path: str | None = None
    key: str | None = None

    def __post_init__(self) -> None:
        kind = self.kind
        if self.path is None and kind.needs_file:
            raise UsageError(f"task {self.name} needs a file", "give one with --task-file")

    @property
    def kind(self) -> TaskTexts:
        """What knows the task's format."""
        return TASK_FILES.get(self.name.partition(":")[0])()

    def texts(self) -> Iterator[str]:
        """Every text of the task."""
        return self.kind.texts(self.path, self.key, self.name.partition(":")[2])

    def state(self) -> Any:
        """What tells that the task's files are still the same, for JSON."""
        found = [] if self.path is None else [(str(path), path.stat()) for path in files(self.path)]
        return [self.name, self.key, [(name, stat.st_size, stat.st_mtime_ns) for name, stat in found]]


def follow(value: Any, place: str) -> Iterator[str]:
    """The texts at a place.

    >>> list(follow({"data": [{"q": "one"}, {"q": "two"}, {}]}, "data[].q"))
    ['one', 'two']
    >>> list(follow({"a": {"q": ["x", "y"]}}, "*.q[]"))
    ['x', 'y']
    """
    head, _, rest = place.partition(".")
    every = head.endswith("[]")
    name = head.removesuffix("[]")
    if not isinstance(value, dict):
        return
    inner = value.values() if name == "*" else [value[name]] if name in value else []
    for one in inner:
        for item in one if every and isinstance(one, list) else [] if every else [one]:
            if rest:
                yield from follow(item, rest)
            elif isinstance(item, str):
                yield item


def files(path: str) -> list[Path]:
    """The files meant by a path: a folder's, in order of name, hidden ones left out.

    Raises:
        MccError: there is none.
    """
    folder = Path(path)
    if not folder.is_dir():
        return expand([path], "task file")
    found = sorted(one for one in folder.rglob("*") if one.is_file() and not one.name.startswith("."))
    if not found:
        raise MccError(f"task folder {path} has no files", "give the task's files")
    return found


def values(path: str) -> Iterator[tuple[str, Any]]:
    """(`FILE:LINE` or `FILE`, JSON value or text) of files: a line of JSON, a whole JSON file, or the elements of one
    that is a list."""
    for file in files(path):
        suffix = content_suffix(file)
        whole = None
        if suffix in _WHOLE:
            raw = _whole(file).removeprefix(BOM)
            whole = _parsed(raw)
            if whole is None and suffix in _TEXT and not raw.lstrip().startswith((b"{", b"[")):
                yield from _plain(file, raw)
                continue
        if isinstance(whole, list):
            yield from ((f"{file}[{i}]", value) for i, value in enumerate(whole))
        elif whole is not None:
            yield str(file), whole
        elif suffix in (*_TEXT, *_WHOLE, ".jsonl", ".ndjson", *PARQUET):
            yield from _lines(file)
        else:
            known = f".jsonl, .json, .txt, each also with {', '.join(COMPRESSIONS)}, and .parquet"
            raise UsageError(f"task file {file}: unknown format {suffix!r}", f"known: {known}")


def _whole(file: Path) -> bytes:
    with telling_damage(file, lambda: "to its end"), open_input(file) as stream:
        return stream.read()


def _parsed(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None


def _plain(file: Path, raw: bytes) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(raw.splitlines(), 1):
        try:
            yield f"{file}:{number}", line.decode()
        except UnicodeDecodeError as error:
            raise MccError(f"{file}:{number}: not UTF-8 at byte {error.start + 1}", "give the file as UTF-8") from None


def _lines(file: Path) -> Iterator[tuple[str, Any]]:
    source = RecordSource([file], ReadConfig(on_error="fail"))
    for unit in range(source.units()):
        for block in source.blocks(unit):
            for number, reason, line in block.problems:
                Part({}).bad_line(f"{file}:{number}", reason, line, source.read)
            for number, line in block.lines():
                if not line.strip():
                    continue
                try:
                    yield f"{file}:{number}", orjson.loads(line)
                except orjson.JSONDecodeError as error:
                    raise MccError(f"{file}:{number}: not JSON: {error}", "correct the task's file") from None
