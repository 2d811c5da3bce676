"""Passages of evaluation tasks cut out of training documents, by the 13-gram rule of GPT-3 as Megatron-LM applies it.

Words are runs of `\\w`, lower-cased. A task text of 13 words or more gives all its 13-grams, one of 8 to 12 words is
one n-gram, a shorter one is none. N-grams that occur in 10 documents or more are common phrases and are left alone.
Around every other one a document is cut at the next `.`, `!` or `?` beyond 200 characters on either side; pieces of
more than 200 characters stay; a document in more than 10 pieces is dropped (Brown et al. 2020, appendix C).
"""

# W words of a document, n words of an n-gram

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mcc.core.config import option
from mcc.core.errors import MccError, UsageError, unknown
from mcc.core.events import SILENT, Reporter
from mcc.data.documents import ReadConfig, Reader
from mcc.data.step import Step, StepReport

_WORD = re.compile(r"\w+")
_ENDS = ".!?"
_END = re.compile(r"[.!?]")
# The one character whose lower-case form is longer than itself; positions must stay those of the text.
_DOTTED_I = "\u0130"

# The key that holds the text of a task's lines.
TASKS: Mapping[str, str] = {
    "lambada": "text",
    "squad": "question",
    "triviaqa": "question",
    "webqa": "question",
    "race": "question",
    "drop": "question",
    "piqa": "goal",
    "jsonl": "text",
}


@dataclass(frozen=True, kw_only=True)
class TaskFile:
    """Texts of a task: JSON lines.

    Args:
        name: a name of `TASKS`, which says the key; `jsonl` for any file.
        path: the file.
        key: the key of the text, when it is not the task's own.
    """

    name: str
    path: str
    key: str | None = None

    def __post_init__(self) -> None:
        if self.name not in TASKS:
            raise unknown("task", self.name, TASKS)


@dataclass(frozen=True, kw_only=True)
class DecontaminateConfig:
    """The tasks, and the numbers of the rule.

    Raises:
        UsageError: no task is given, or a number is out of bounds.
    """

    tasks: tuple[TaskFile, ...] = ()
    max_ngram: int = option(13, "words of an n-gram")
    min_ngram: int = option(8, "words of the shortest task text that is looked for")
    key_threshold: int = option(10, "n-grams in this many documents or more are left alone")
    remove_chars_each_side: int = option(200, "characters cut on either side, then on to the end of a sentence")
    min_piece_chars: int = option(200, "pieces of so many characters or fewer are dropped")
    max_pieces: int = option(10, "a document in more pieces is dropped")
    read: ReadConfig = field(default_factory=ReadConfig)

    def __post_init__(self) -> None:
        if not self.tasks:
            raise UsageError("no task to decontaminate against", "give a task and its file")
        if not 1 <= self.min_ngram <= self.max_ngram:
            raise UsageError(
                f"min_ngram = {self.min_ngram} must be at least 1 and at most max_ngram = {self.max_ngram}"
            )
        for name in ("key_threshold", "remove_chars_each_side", "min_piece_chars", "max_pieces"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} = {getattr(self, name)} must not be negative")


@dataclass(frozen=True, kw_only=True)
class DecontaminateReport(StepReport):
    """What was found. `documents_out` counts pieces.

    Args:
        ngrams: n-grams that each task gave, without those of the tasks before it.
        common: n-grams left alone because too many documents hold them.
        matched: n-grams that were cut out, by task.
        trimmed, split, dropped: documents cut to one piece, to several, and not kept.
    """

    ngrams: dict[str, int]
    common: int
    matched: dict[str, int]
    trimmed: int
    split: int
    dropped: int


def task_ngrams(texts: Iterator[str], max_ngram: int = 13, min_ngram: int = 8) -> Iterator[str]:
    """The n-grams of task texts, words joined by one space.

    >>> list(task_ngrams(iter(["One two, three!", "four"]), max_ngram=2, min_ngram=2))
    ['one two', 'two three']
    """
    for text in texts:
        words = _WORD.findall(lower(text))
        if min_ngram <= len(words) < max_ngram:
            yield " ".join(words)
        for i in range(len(words) - max_ngram + 1):
            yield " ".join(words[i : i + max_ngram])


def lower(text: str) -> str:
    """`text.lower()`, of the same length as `text`."""
    return (text.replace(_DOTTED_I, "i") if _DOTTED_I in text else text).lower()


class Matcher:
    """Finds n-grams in documents.

    Every word of the n-grams has a random number, every other word 0; a rolling polynomial of the numbers, computed
    for all positions at once, is looked up in a bit table, and only what passes is compared as text.
    """

    def __init__(self, ngrams: Mapping[str, object], max_ngram: int) -> None:
        self.ngrams = ngrams
        self.max_ngram = max_ngram
        split = [ngram.split(" ") for ngram in ngrams]
        self.lengths = sorted({len(words) for words in split})
        generator = np.random.default_rng(1)
        self._numbers: dict[str, int] = {}
        for words in split:
            for word in words:
                self._numbers.setdefault(word, len(self._numbers) + 1)
        self._values = generator.integers(1, 1 << 63, size=len(self._numbers) + 1, dtype=np.uint64)
        self._powers = generator.integers(1, 1 << 63, size=max_ngram, dtype=np.uint64) | np.uint64(1)
        bits = max(16, (16 * len(split)).bit_length())
        self._shift = np.uint64(64 - bits)
        self._tables = {length: np.zeros(1 << bits, dtype=np.bool_) for length in self.lengths}
        for length in self.lengths:
            rows = [words for words in split if len(words) == length]
            numbers = np.array([[self._numbers[word] for word in words] for words in rows])
            hashed = (self._values[numbers] * self._powers[:length]).sum(axis=1, dtype=np.uint64)
            self._tables[length][hashed >> self._shift] = True

    def only(self, ngrams: Mapping[str, object]) -> Matcher:
        """A matcher of some of these n-grams; it shares the tables, which only let a little more through."""
        chosen = copy(self)
        chosen.ngrams = ngrams
        return chosen

    def candidates(self, words: Sequence[str]) -> list[tuple[int, int]]:
        """(position, words) of what may be an n-gram: by position, the longest n-gram first, then by length."""
        if len(words) < self.max_ngram:  # the rule does not look at such documents
            return []
        numbers = np.fromiter(map(self._numbers.get, words, _ZEROS), dtype=np.int64, count=len(words))
        values = self._values[numbers]
        found: list[tuple[int, int]] = []
        hashed: NDArray[np.uint64] = np.zeros(len(words), dtype=np.uint64)
        for length in range(1, self.max_ngram + 1):
            tail = values[length - 1 :] * self._powers[length - 1]
            hashed = hashed[: len(tail)] + tail
            if length in self._tables:
                positions = np.flatnonzero(self._tables[length][hashed >> self._shift])
                found += [(position, length) for position in positions.tolist()]
        found.sort(key=lambda item: (item[0], item[1] != self.max_ngram, item[1]))
        return found


class _Zeros:
    """An endless row of zeros, for `map`."""

    def __iter__(self) -> _Zeros:
        return self

    def __next__(self) -> int:
        return 0


_ZEROS = _Zeros()


class _Document:
    """A text walked from its start: each match moves the start behind what it cuts off. Linear in the text."""

    def __init__(self, text: str, matcher: Matcher) -> None:
        self.text = text
        self._matcher = matcher
        lowered = lower(text)
        self.words = _WORD.findall(lowered)
        self._candidates = matcher.candidates(self.words)
        # Positions are needed only where something may match.
        self._starts = [found.start() for found in _WORD.finditer(lowered)] if self._candidates else []
        self._next = 0

    def first_match(self, base: int) -> tuple[int, str] | None:
        """(character position, n-gram) of the first match in `text[base:]`, in the rule's order."""
        if not self._candidates or base >= len(self.text):
            return None
        first = bisect_left(self._starts, base)
        partial = self._partial(first, base)
        count = len(self.words) - first + (partial is not None)
        if count < self._matcher.max_ngram:
            return None
        if partial is not None and (found := self._partial_match(partial, first)) is not None:
            return base, found
        # Words from here on are the last n-gram: shorter ones within it come after all others, by length.
        last = len(self.words) - self._matcher.max_ngram
        while self._next < len(self._candidates) and self._candidates[self._next][0] < first:
            self._next += 1
        tail = []
        for i in range(self._next, len(self._candidates)):
            position, length = self._candidates[i]
            if position > last:
                if count > self._matcher.max_ngram:
                    tail.append((length, position))
                continue
            if (ngram := self._ngram(position, length)) is not None:
                return self._starts[position], ngram
        for length, position in sorted(tail):
            if length < self._matcher.max_ngram and (ngram := self._ngram(position, length)) is not None:
                return self._starts[position], ngram
        return None

    def _ngram(self, position: int, length: int) -> str | None:
        ngram = " ".join(self.words[position : position + length])
        return ngram if ngram in self._matcher.ngrams else None

    def _partial(self, first: int, base: int) -> str | None:
        """The rest of a word that `base` stands inside of; counting may cut through one."""
        if first == 0:
            return None
        start = self._starts[first - 1]
        word = self.words[first - 1]
        return word[base - start :] if base < start + len(word) else None

    def _partial_match(self, partial: str, first: int) -> str | None:
        sizes = [self._matcher.max_ngram, *self._matcher.lengths]
        following = [partial, *self.words[first : first + self._matcher.max_ngram - 1]]
        return next((key for size in sizes if (key := " ".join(following[:size])) in self._matcher.ngrams), None)


def count_matches(text: str, matcher: Matcher) -> set[str]:
    """The n-grams met when reading on behind each match."""
    document = _Document(text, matcher)
    found = set()
    base = 0
    while (match := document.first_match(base)) is not None:
        start, ngram = match
        found.add(ngram)
        base = start + len(ngram) + 1
    return found


def cut(text: str, matcher: Matcher, config: DecontaminateConfig) -> tuple[list[str], list[str]]:
    """The pieces of `text` that stay (`[text]` when nothing matches), and the n-grams cut out."""
    document = _Document(text, matcher)
    pieces: list[str] = []
    cut_out: list[str] = []
    base = 0
    while (match := document.first_match(base)) is not None:
        start, ngram = match
        cut_out.append(ngram)
        # Back from 200 characters before the match to the end of a sentence; its first character never is one.
        before = start - config.remove_chars_each_side
        end = max((text.rfind(mark, base + 1, before + 1) for mark in _ENDS), default=-1) if before > base else -1
        if end >= 0 and end + 1 - base > config.min_piece_chars:
            pieces.append(text[base : end + 1])
        behind = start + len(ngram) + config.remove_chars_each_side
        found = _END.search(text, behind)
        base = found.end() if found else len(text)
        if len(text) - base <= config.min_piece_chars:
            return pieces, cut_out
    pieces.append(text[base:])
    return pieces, cut_out


def decontaminate(
    inputs: Sequence[str | Path], output: Path, config: DecontaminateConfig, reporter: Reporter = SILENT
) -> DecontaminateReport:
    """Write the documents without what they share with the tasks. Reads the documents twice.

    A document that was cut gives one record a piece, with `split_id` (`TASKS-DOCUMENT-PIECE`); all else is as it was.
    Dropped documents go to `OUTPUT.rejects.jsonl`.

    Raises:
        MccError: bad input (see `Reader`), or a task's file gives no n-grams.
    """
    key = config.read.keys[0]
    owner, per_task = _read_tasks(config)
    lookup = Matcher(owner, config.max_ngram)
    counts: Counter[str] = Counter()
    for record in Step("decontaminate: count", inputs, None, read=config.read, reporter=reporter).records():
        counts.update(count_matches(record[key], lookup))
    rare = {ngram: task for ngram, task in owner.items() if counts[ngram] < config.key_threshold}
    # Also those that were not met: counting reads on behind a match, which may hide one.
    matcher = lookup.only(rare)
    prefix = "-".join(task.name for task in config.tasks)
    matched: Counter[str] = Counter()
    trimmed = split = dropped = 0
    step = Step("decontaminate", inputs, output, read=config.read, reporter=reporter)
    with step:
        for record in step.records():
            pieces, cut_out = cut(record[key], matcher, config)
            if not cut_out:
                step.write(record)
                continue
            matched.update(rare[ngram] for ngram in cut_out)
            if not pieces or len(pieces) > config.max_pieces:
                dropped += 1
                why = "too-many-pieces" if pieces else "nothing-left"
                step.reject(record, why, f"{len(pieces)} pieces are left around {len(cut_out)} n-grams of tasks")
                continue
            trimmed += len(pieces) == 1
            split += len(pieces) > 1
            before = f"{record['split_id']}-" if "split_id" in record else ""
            for i, piece in enumerate(pieces):
                name = f"{before}{prefix}-{step.documents_in:010d}-{i:04d}"
                step.write({**record, key: piece, "split_id": name})
    return step.report(
        DecontaminateReport,
        ngrams=per_task,
        common=len(owner) - len(rare),
        matched=dict(matched),
        trimmed=trimmed,
        split=split,
        dropped=dropped,
    )


def _read_tasks(config: DecontaminateConfig) -> tuple[dict[str, str], dict[str, int]]:
    """N-gram -> task that gave it first; task -> how many it gave."""
    owner: dict[str, str] = {}
    per_task: Counter[str] = Counter()
    for task in config.tasks:
        key = task.key or TASKS[task.name]
        texts = (record[key] for record in Reader([task.path], ReadConfig(keys=(key,))))
        before = len(owner)
        for ngram in task_ngrams(texts, config.max_ngram, config.min_ngram):
            owner.setdefault(ngram, task.name)
        per_task[task.name] += len(owner) - before
        if len(owner) == before and before == 0:
            raise MccError(
                f"{task.path}: no text of at least {config.min_ngram} words under {key!r}", "is it the task's file?"
            )
    return owner, dict(per_task)
