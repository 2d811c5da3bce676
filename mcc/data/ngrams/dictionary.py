"""The n-grams of tasks: made from the tasks' texts, saved, and loaded for the next corpus.

A saved dictionary is lines of JSON: a head with `format` and `version`, then some n-grams of one task a line, each with
the number of documents that held it in the corpus it was counted on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from mcc.core.errors import MccError, UsageError
from mcc.core.files import atomic_path
from mcc.data.base.streams import lines, open_output
from mcc.data.ngrams.lookup import NgramHashes
from mcc.data.ngrams.task_texts import TaskFile
from mcc.data.ngrams.words import find_words

FORMAT = "mcc decontamination dictionary"
VERSION = 1
_LINE_NGRAMS = 1000


@dataclass(frozen=True, kw_only=True)
class Dictionary:
    """N-grams and the tasks that they are of.

    Args:
        ngrams: words in lower case, one space between them; each once.
        owners: number of the task that gave each first.
        tasks: names of the tasks, in order.
        max_ngram, min_ngram: the bounds that they were made with.
        documents: how many documents hold each; None when nobody has counted.
        texts: what the n-grams were made of, words joined by one space; empty when that is not known any more.
    """

    ngrams: list[str]
    owners: NDArray[np.uint32]
    tasks: tuple[str, ...]
    max_ngram: int
    min_ngram: int
    documents: NDArray[np.int64] | None = None
    texts: tuple[str, ...] = ()

    @cached_property
    def numbers(self) -> dict[str, int]:
        """N-gram -> its number."""
        return {ngram: i for i, ngram in enumerate(self.ngrams)}

    def task_of(self, ngram: str) -> str:
        """The task that gave an n-gram."""
        return self.tasks[self.owners[self.numbers[ngram]]]

    def hashes(self) -> NgramHashes:
        """What the search for them needs."""
        return NgramHashes.of(self.texts or self.ngrams, self.max_ngram)

    def per_task(self) -> dict[str, int]:
        """How many n-grams each task gave that no task before it had."""
        found = np.bincount(self.owners, minlength=len(self.tasks)).tolist()
        return dict(zip(self.tasks, found, strict=True))

    def counted(self, documents: NDArray[np.int64]) -> Dictionary:
        """The same with the number of documents that hold each n-gram."""
        return replace(self, documents=documents)

    def save(self, path: Path) -> None:
        """Write the file, compressed by its ending."""
        head = {"format": FORMAT, "version": VERSION, "max_ngram": self.max_ngram, "min_ngram": self.min_ngram}
        with atomic_path(path) as temporary, open_output(temporary, path) as stream:
            stream.write(orjson.dumps({**head, "tasks": self.tasks, "ngrams": len(self.ngrams)}) + b"\n")
            for start in range(0, len(self.ngrams), _LINE_NGRAMS):
                owners = self.owners[start : start + _LINE_NGRAMS]
                cuts = (np.flatnonzero(np.diff(owners)) + 1 + start).tolist()
                for a, b in pairwise([start, *cuts, start + len(owners)]):
                    stream.write(orjson.dumps(self._line(a, b)) + b"\n")

    def _line(self, start: int, end: int) -> dict[str, Any]:
        line: dict[str, Any] = {"task": self.tasks[self.owners[start]], "ngrams": self.ngrams[start:end]}
        if self.documents is not None:
            line["documents"] = self.documents[start:end].tolist()
        return line


def task_ngrams(texts: Iterable[str], max_ngram: int = 13, min_ngram: int = 8) -> Iterator[str]:
    """The n-grams of task texts, words joined by one space.

    >>> list(task_ngrams(["One two, three!", "four"], max_ngram=2, min_ngram=2))
    ['one two', 'two three']
    """
    for text in texts:
        words = find_words(text)
        if len(words) >= min_ngram:
            yield from _ngrams(" ".join(words), list(map(len, words)), max_ngram)


def _ngrams(text: str, lengths: Sequence[int], max_ngram: int) -> list[str]:
    """The n-grams of words with these lengths, joined by one space."""
    if len(lengths) < max_ngram:
        return [text]
    ends = np.cumsum(lengths) + np.arange(len(lengths))
    starts = ends - lengths
    places = zip(starts[: len(lengths) - max_ngram + 1].tolist(), ends[max_ngram - 1 :].tolist(), strict=True)
    return [text[start:end] for start, end in places]


def build(tasks: Sequence[TaskFile], max_ngram: int, min_ngram: int) -> Dictionary:
    """The n-grams of tasks; one that several tasks have belongs to the first.

    Raises:
        MccError: a task's file is none of its format, or gives no n-grams.
    """
    owners: dict[str, int] = {}
    names = tuple(dict.fromkeys(task.name for task in tasks))
    texts: list[str] = []
    for task in tasks:
        number = names.index(task.name)
        before = len(texts)
        for words in map(find_words, task.texts()):
            if len(words) >= min_ngram:
                texts.append(" ".join(words))
                for ngram in _ngrams(texts[-1], list(map(len, words)), max_ngram):
                    owners.setdefault(ngram, number)
        if len(texts) == before:
            where = task.path if task.path is not None else f"task {task.name}"
            place = f" under {task.key!r}" if task.key else ""
            raise MccError(f"{where}: no text of at least {min_ngram} words{place}", "is it the task's file?")
    return Dictionary(
        ngrams=list(owners),
        owners=np.fromiter(owners.values(), dtype=np.uint32, count=len(owners)),
        tasks=names,
        max_ngram=max_ngram,
        min_ngram=min_ngram,
        texts=tuple(texts),
    )


def load(path: str | Path) -> Dictionary:
    """A saved dictionary.

    Raises:
        MccError: the file is none, is damaged, or is of another version.
    """
    path = Path(path)
    head: dict[str, Any] = {}
    ngrams: list[str] = []
    owners: list[NDArray[np.uint32]] = []
    documents: list[int] = []
    try:
        for number, line in lines(path):
            entry = orjson.loads(line)
            if number == 1:
                head = _head(path, entry)
                continue
            ngrams += entry["ngrams"]
            owners.append(np.full(len(entry["ngrams"]), head["tasks"].index(entry["task"]), dtype=np.uint32))
            documents += entry.get("documents", ())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MccError(
            f"{path}: no saved dictionary, or damaged: {error}", "save it again: --save-dictionary"
        ) from None
    if not ngrams or len(ngrams) != head.get("ngrams") or len(documents) not in (0, len(ngrams)):
        raise MccError(f"{path}: no saved dictionary, or cut off", "save it again: --save-dictionary")
    return Dictionary(
        ngrams=ngrams,
        owners=np.concatenate([np.zeros(0, dtype=np.uint32), *owners]),
        tasks=tuple(head["tasks"]),
        max_ngram=head["max_ngram"],
        min_ngram=head["min_ngram"],
        documents=np.array(documents, dtype=np.int64) if documents else None,
    )


def _head(path: Path, entry: Any) -> dict[str, Any]:
    if not isinstance(entry, dict) or entry.get("format") != FORMAT:
        raise MccError(f"{path}: no saved dictionary", "give a file that --save-dictionary wrote")
    if entry.get("version") != VERSION:
        raise UsageError(
            f"{path}: a dictionary of version {entry.get('version')}, and this is version {VERSION}",
            "make it again from the tasks: --save-dictionary",
        )
    return entry
