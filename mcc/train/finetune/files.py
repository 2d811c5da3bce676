"""The examples of a task's files: read once to find and check them, then line by line where they are needed."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Sequence
from glob import has_magic
from pathlib import Path
from typing import Any

import numpy as np

from mcc.core.errors import MccError, UsageError
from mcc.core.events import SILENT, Reporter
from mcc.core.files import require_file
from mcc.train.finetune.config import FinetuneConfig
from mcc.train.finetune.task import BadExample, Example, Record, Task

_JSON = (".json", ".jsonl")
_BOM = b"\xef\xbb\xbf"


class Examples:
    """The examples of some files, in the order of their lines. Only where they stand is kept in memory.

    Args:
        paths: .tsv (with a header line, or the task's columns), .jsonl, or .txt of either kind.
        task: how a line is read.
        max_errors: so many bad lines are left out, with a warning.

    Raises:
        MccError: a line is bad; has its number and what is wrong.
    """

    def __init__(self, paths: Sequence[Path], task: Task, max_errors: int = 0, reporter: Reporter = SILENT) -> None:
        self.task, self.paths = task, [require_file(path, "task file") for path in paths]
        self._headers = [self._header(path) for path in self.paths]
        places = array("q")
        bad: list[str] = []
        for file, path in enumerate(self.paths):
            for number, offset, line in self._lines(file):
                try:
                    count = len(list(self._examples(file, line)))
                except (BadExample, ValueError, TypeError, KeyError) as error:
                    bad.append(f"{path}:{number}: {_what(error)}")
                    if len(bad) > max_errors:
                        hint = f"task {task.name} allows {max_errors} such lines" if max_errors else None
                        raise MccError(bad[-1], hint or "--task-max-errors N leaves bad lines out") from None
                    continue
                for question in range(count):
                    places.extend((file, offset, question))
        if bad:
            reporter.warn(f"{len(bad)} bad lines left out, the first: {bad[0]}")
        self._places = np.frombuffer(places, dtype=np.int64).reshape(-1, 3)
        if not len(self._places):
            raise MccError(f"{', '.join(map(str, self.paths[:3]))}: no examples")

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, i: int) -> Example:
        file, offset, question = (int(value) for value in self._places[i])
        with self.paths[file].open("rb") as stream:
            stream.seek(offset)
            return list(self._examples(file, stream.readline()))[question]

    def _examples(self, file: int, line: bytes) -> Iterator[Example]:
        found = list(self.task.examples(self._record(file, line)))
        if any(len(example.rows) != self.task.rows for example in found):
            raise BadExample(f"not {self.task.rows} choices")
        return iter(found)

    def _record(self, file: int, line: bytes) -> Record:
        text = line.decode("utf-8").rstrip("\r\n")
        header = self._headers[file]
        if header is None:
            value = json.loads(text)
            if not isinstance(value, dict):
                raise BadExample("not a JSON object")
            return value
        cells = text.split("\t")
        if len(cells) != len(header.names):
            raise BadExample(f"{len(cells)} columns, not {len(header.names)}")
        return dict(zip(header.names, cells, strict=True))

    def _lines(self, file: int) -> Iterator[tuple[int, int, bytes]]:
        """(number from 1, byte offset, the line) of every line with content, without a header."""
        header = self._headers[file]
        skip = header.bytes if header is not None else _bom(self.paths[file])
        with self.paths[file].open("rb") as stream:
            stream.seek(skip)
            offset, number = skip, 1 if header is not None and header.bytes > _bom(self.paths[file]) else 0
            for line in stream:
                number += 1
                if line.strip():
                    yield number, offset, line
                offset += len(line)

    def _header(self, path: Path) -> _Header | None:
        """The columns of a .tsv; None for lines of JSON."""
        start = _bom(path)
        with path.open("rb") as stream:
            stream.seek(start)
            line = stream.readline()
        if path.suffix in _JSON or line.lstrip().startswith(b"{"):
            return None
        names = line.decode("utf-8", errors="replace").rstrip("\r\n").split("\t")
        if not self.task.columns or self.task.columns & set(names):
            return _Header(names, start + len(line))
        if self.task.header:
            return _Header(list(self.task.header), start)
        known = ", ".join(names[:12])
        raise MccError(f"{path}:1: no column {' or '.join(sorted(self.task.columns))}", f"its columns: {known}")


class _Header:
    def __init__(self, names: list[str], bytes: int) -> None:
        self.names, self.bytes = names, bytes


def _bom(path: Path) -> int:
    with path.open("rb") as stream:
        return len(_BOM) if stream.read(len(_BOM)) == _BOM else 0


def _what(error: Exception) -> str:
    if isinstance(error, BadExample):
        return str(error)
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg}"
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8"
    return f"not an example ({error})"


def training_files(task: Task, config: FinetuneConfig) -> list[Path]:
    """The task's training files.

    Raises:
        UsageError: they are not there.
    """
    assert config.task_data is not None
    given = Path(config.task_data)
    return _find(given, task.train) if given.is_dir() else [require_file(given, "task file")]


def scored_files(task: Task, config: FinetuneConfig) -> dict[str, list[Path]]:
    """What is scored after every epoch, by name; nothing when only a training file was given.

    Raises:
        UsageError: they are not there.
    """
    assert config.task_data is not None
    if config.task_valid_data is not None:
        given = Path(config.task_valid_data)
        return {"valid": _find(given, task.valid[0][1]) if given.is_dir() else [require_file(given, "task file")]}
    folder = Path(config.task_data)
    return {name: _find(folder, names) for name, names in task.valid} if folder.is_dir() else {}


def _find(folder: Path, names: Sequence[str]) -> list[Path]:
    for name in names:
        found: list[Any] = sorted(folder.glob(name)) if has_magic(name) else [folder / name]
        found = [path for path in found if path.is_file()]
        if found:
            return found
    raise UsageError(f"{folder} has none of {', '.join(names)}", "--task-data FILE and --task-valid-data FILE")
