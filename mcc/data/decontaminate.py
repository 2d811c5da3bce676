"""Passages of evaluation tasks cut out of training documents, by the 13-gram rule of GPT-3 as Megatron-LM applies it.

Words are runs of `\\w`, lower-cased. A task text of 13 words or more gives all its 13-grams, one of 8 to 12 words is
one n-gram, a shorter one is none. N-grams that occur in 10 documents or more are common phrases and are left alone.
Around every other one a document is cut at the next `.`, `!` or `?` beyond 200 characters on either side; pieces of
more than 200 characters stay; a document in more than 10 pieces is dropped (Brown et al. 2020, appendix C).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from mcc.core.config import option, plain
from mcc.core.errors import UsageError
from mcc.core.events import SILENT, Reporter
from mcc.core.files import require_file
from mcc.data import dictionary as dictionaries
from mcc.data.block_table import BlockTable, read_range, write_row
from mcc.data.blocks import Block, RecordSource
from mcc.data.contamination import CutConfig, SuspectDocument
from mcc.data.job import Job, Map, Single, run, step_report
from mcc.data.ngrams import NgramIndex
from mcc.data.part import Part
from mcc.data.publish import Output, records_path
from mcc.data.records import ReadConfig, Record
from mcc.data.step import StepReport, side_path
from mcc.data.task_texts import TASK_FILES, TaskFile, files
from mcc.data.work import Work

__all__ = ["TASK_FILES", "DecontaminateConfig", "DecontaminateReport", "TaskFile", "decontaminate", "decontaminate_job"]

_COUNT, _WEIGH, _CUT = "count", "weigh", "cut"
_DICTIONARY, _RARE = "dictionary.jsonl", "rare.npy"
_COLUMNS = ("records", "chars", "clean")


@dataclass(frozen=True, kw_only=True)
class DecontaminateConfig(CutConfig):
    """The tasks, and the numbers of the rule.

    Args:
        tasks: what to look for.
        dictionary: a saved dictionary instead of tasks; its counts of documents hold, not those of this corpus.

    Raises:
        UsageError: no task is given, tasks and a dictionary are, or a number is out of bounds.
    """

    tasks: tuple[TaskFile, ...] = ()
    dictionary: str | None = option(None, "saved dictionary to use instead of tasks")
    workers: int = option(1, "processes")
    read: ReadConfig = field(default_factory=ReadConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.workers < 1:
            raise UsageError(f"workers = {self.workers} must be at least 1")
        if not self.tasks and self.dictionary is None:
            raise UsageError("no task to decontaminate against", "give a task and its file, or a saved dictionary")
        if self.tasks and self.dictionary is not None:
            raise UsageError("tasks and a saved dictionary exclude each other", "leave one of them out")


@dataclass(frozen=True, kw_only=True)
class DecontaminateReport(StepReport):
    """What was found. `documents_out` counts pieces.

    Args:
        ngrams: n-grams that each task gave, without those of the tasks before it.
        common: n-grams left alone because too many documents hold them.
        matched: n-grams that were cut out, by task.
        contaminated: documents that they were cut out of, by task.
        trimmed, split, dropped: documents cut to one piece, to several, and not kept.
    """

    ngrams: dict[str, int]
    common: int
    matched: dict[str, int]
    contaminated: dict[str, int]
    trimmed: int
    split: int
    dropped: int


def decontaminate(
    inputs: Sequence[str | Path],
    output: Path,
    config: DecontaminateConfig,
    reporter: Reporter = SILENT,
    rejects: Path | None = None,
    save: Path | None = None,
) -> DecontaminateReport:
    """Write the documents without what they share with the tasks.

    A document that was cut gives one record a piece, with `split_id` (`TASKS-DOCUMENT-PIECE`); all others are written
    as they stand in the input. Dropped documents go to `rejects`, `OUTPUT.rejects.jsonl` by default.

    Args:
        save: a file for the n-grams and how many documents hold each, for `config.dictionary` of another run.

    Raises:
        MccError: bad input, or a task's file gives no n-grams.
    """
    return run(decontaminate_job(inputs, output, config, rejects, save), config.workers, reporter)


def decontaminate_job(
    inputs: Sequence[str | Path],
    output: Path,
    config: DecontaminateConfig,
    rejects: Path | None = None,
    save: Path | None = None,
) -> Job[DecontaminateReport]:
    """The step as a job: count the n-grams of every document, weigh them, cut."""
    source = RecordSource(inputs, config.read)
    optional = rejects is None
    rejects = rejects or side_path(output, "rejects")
    saved = None if save is None else f"saved-{save.name}"
    outputs = [Output(rejects, phase=_CUT, stream="rejects", optional=optional)]
    outputs += [Output(save, file=saved)] if save is not None and saved is not None else []
    outputs += [Output(records_path(output), phase=_CUT, stream="out")]

    def report(_: Mapping[str, int], work: Work) -> DecontaminateReport:
        _read.cache_clear()
        counts = work.counts(_CUT)
        return step_report(
            DecontaminateReport,
            "decontaminate",
            counts,
            work,
            outputs,
            config.read.max_errors,
            ngrams=_named(work.counts(_DICTIONARY), "ngrams"),
            common=work.counts(_WEIGH)["common"],
            matched=_named(counts, "matched"),
            contaminated=_named(counts, "contaminated"),
            trimmed=counts["trimmed"],
            split=counts["split"],
            dropped=sum(number for name, number in counts.items() if name.startswith("rejected:")),
        )

    return Job(
        name="decontaminate",
        output=output,
        key=[plain(replace(config, workers=1)), _state(config)],
        phases=(
            Single(name=_DICTIONARY, run=partial(_prepare, config)),
            Map(
                name=_COUNT,
                source=source,
                make=partial(_Count, config.read),
                streams={"table": None, "suspects": None, "ngrams": None},
            ),
            Single(name=_WEIGH, run=partial(_weigh, config.key_threshold, saved)),
            Map(name=_CUT, source=source, make=partial(_Cut, config), streams={"out": output, "rejects": rejects}),
        ),
        outputs=outputs,
        report=report,
        inputs=_files(config),
    )


def _files(config: DecontaminateConfig) -> list[Path]:
    """What is read beside the documents."""
    if config.dictionary is not None:
        return [require_file(config.dictionary, "dictionary")]
    return [path for task in config.tasks if task.path is not None for path in files(task.path)]


def _state(config: DecontaminateConfig) -> Any:
    """What tells that the tasks are still the same, for JSON."""
    return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in _files(config)]


def _named(counts: Mapping[str, int], kind: str) -> dict[str, int]:
    return {name.partition(":")[2]: number for name, number in counts.items() if name.startswith(f"{kind}:")}


def _prepare(config: DecontaminateConfig, work: Work, reporter: Reporter) -> dict[str, int]:
    """The dictionary, where every process finds it."""
    with reporter.task("decontaminate: n-grams of the tasks"):
        if config.dictionary is not None:
            dictionary = dictionaries.load(config.dictionary)
        else:
            dictionary = dictionaries.build(config.tasks, config.max_ngram, config.min_ngram)
        dictionary.save(work.path(_DICTIONARY))
    return {f"ngrams:{task}": number for task, number in dictionary.per_task().items()}


def _loaded(work: Work) -> tuple[dictionaries.Dictionary, NgramIndex]:
    path = work.path(_DICTIONARY)
    return _read(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _read(path: Path, _: int) -> tuple[dictionaries.Dictionary, NgramIndex]:
    """Read once for all phases of a process."""
    dictionary = dictionaries.load(path)
    return dictionary, dictionary.index()


class _Count:
    """Says which records of a block hold n-grams, and which n-grams, each once a record."""

    def __init__(self, read: ReadConfig, work: Work) -> None:
        self._read = read
        _, self._index = _loaded(work)

    def __call__(self, block: Block, out: Part) -> None:
        key = self._read.keys[0]
        texts = [record[key] for _, record in block.records(self._read, out)]
        out.warnings.clear()  # they come again when the lines are set aside
        suspects = np.zeros(len(texts), dtype=np.uint8)
        found: list[int] = []
        for suspect in self._index.find(texts):
            ngrams = SuspectDocument(suspect, self._index).count()
            suspects[suspect.number] = bool(ngrams)
            found += [self._index.numbers[ngram] for ngram in ngrams]
        # Where every line is a record, they need not be looked at again.
        clean = not block.problems and len(texts) == _lines(block.data)
        write_row(out, "table", block, len(texts), out.counts["chars_in"], clean)
        out.write_bytes("suspects", suspects.tobytes())
        out.write_bytes("ngrams", np.array(found, dtype="<u4").tobytes())


def _lines(data: bytes) -> int:
    return data.count(b"\n") + (not data.endswith(b"\n") and data != b"")


def _weigh(threshold: int, saved: str | None, work: Work, reporter: Reporter) -> dict[str, int]:
    """Which n-grams are rare enough to be cut out."""
    dictionary, _ = _loaded(work)
    documents = dictionary.documents
    if documents is None:
        documents = np.zeros(len(dictionary.ngrams), dtype=np.int64)
        for path in work.parts(_COUNT, "ngrams"):
            with path.open("rb") as file:
                while len(numbers := np.fromfile(file, dtype="<u4", count=1 << 20)):
                    documents += np.bincount(numbers, minlength=len(documents))
    # Also those that were not met: counting reads on behind a match, which may hide one.
    rare = documents < threshold
    np.save(work.path(_RARE), rare)
    if saved is not None:
        dictionary.counted(documents).save(work.path(saved))
    return {"common": int((~rare).sum())}


class _Cut:
    """Writes a block's records, those with n-grams in pieces; the others are not looked at again."""

    def __init__(self, config: DecontaminateConfig, work: Work) -> None:
        dictionary, self._index = _loaded(work)
        self._config = config
        self._tasks, self._owners = dictionary.tasks, dictionary.owners
        self._rare = np.load(work.path(_RARE))
        self._table = BlockTable(work.parts(_COUNT, "table"), _COLUMNS)
        self._suspects = work.parts(_COUNT, "suspects")
        self._prefix = "-".join(dictionary.tasks)

    def __call__(self, block: Block, out: Part) -> None:
        first, count = self._table.before(block, "records"), self._table.of(block, "records")
        suspects = read_range(self._suspects, first, count)
        if not self._table.of(block, "clean"):
            self._others(block, suspects, out, first)
            return
        out.counts["documents_in"] += count
        chars = self._table.of(block, "chars")
        out.counts["chars_in"] += chars
        data = block.data.replace(b"\r\n", b"\n") if b"\r" in block.data else block.data
        if 1 not in suspects:
            out.write_bytes("out", data if data.endswith(b"\n") or not data else data + b"\n")
            out.counts["documents_out"] += count
            out.counts["chars_out"] += chars
            return
        key = self._config.read.keys[0]
        lines = data.split(b"\n")
        records = {i: orjson.loads(lines[i]) for i in range(count) if suspects[i]}
        pieces = self._pieces({i: record[key] for i, record in records.items()})
        out.counts["chars_out"] += chars - sum(len(record[key]) for record in records.values())
        numbers = block.numbers or range(block.line, block.line + count)
        for i in range(count):
            if i in records:
                self._write(records[i], pieces.get(i), f"{block.path}:{numbers[i]}", first + i + 1, out)
            else:
                out.keep_line(lines[i], 0)

    def _others(self, block: Block, suspects: bytes, out: Part, first: int) -> None:
        """A block with lines that are no records."""
        key = self._config.read.keys[0]
        found = list(block.records_and_lines(self._config.read, out))
        pieces = self._pieces({i: found[i][2][key] for i in range(len(found)) if suspects[i]})
        for i, (where, line, record) in enumerate(found):
            if i in pieces:
                self._write(record, pieces[i], where, first + i + 1, out)
            else:
                out.keep_line(line.rstrip(b"\r"), len(record[key]))

    def _pieces(self, texts: Mapping[int, str]) -> dict[int, tuple[list[str], list[str]]]:
        """Text number -> its pieces and the n-grams cut out, for those that something is cut out of."""
        numbers = list(texts)
        found = {}
        for suspect in self._index.find(list(texts.values())):
            number = numbers[suspect.number]
            document = SuspectDocument(suspect, self._index, self._rare)
            pieces, ngrams = document.cut(texts[number], self._config)
            if ngrams:
                found[number] = pieces, ngrams
        return found

    def _write(
        self, record: Record, cut: tuple[list[str], list[str]] | None, where: str, document: int, out: Part
    ) -> None:
        key = self._config.read.keys[0]
        if cut is None:  # its n-grams are common ones
            out.keep(record, len(record[key]))
            return
        pieces, ngrams = cut
        tasks = Counter(self._tasks[self._owners[self._index.numbers[ngram]]] for ngram in ngrams)
        for task, number in tasks.items():
            out.counts[f"matched:{task}"] += number
            out.counts[f"contaminated:{task}"] += 1
        if not pieces or len(pieces) > self._config.max_pieces:
            why = "too-many-pieces" if pieces else "nothing-left"
            out.reject(record, why, f"{len(pieces)} pieces are left around {len(ngrams)} n-grams of tasks", where)
            return
        out.counts["trimmed" if len(pieces) == 1 else "split"] += 1
        before = f"{record['split_id']}-" if "split_id" in record else ""
        for i, piece in enumerate(pieces):
            name = f"{before}{self._prefix}-{document:010d}-{i:04d}"
            out.keep({**record, key: piece, "split_id": name}, len(piece))
