"""The phases of decontamination: the dictionary of the tasks, a count of its n-grams, which of them are rare, the cut.

Counting notes which records hold n-grams; only those are parsed and searched again when it comes to cutting.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import orjson

from mcc.core.events import Reporter
from mcc.data.base.block_table import BlockTable, read_range, write_row
from mcc.data.base.blocks import Block
from mcc.data.base.part import Part
from mcc.data.base.records import ReadConfig, Record
from mcc.data.base.work import Work
from mcc.data.ngrams.contamination import SuspectDocument
from mcc.data.ngrams.dictionary import Dictionary, build, load
from mcc.data.ngrams.lookup import NgramHashes, NgramIndex

if TYPE_CHECKING:
    from mcc.data.decontaminate import DecontaminateConfig

DICTIONARY, COUNT, WEIGH, CUT = "dictionary", "count", "weigh", "cut"
_NGRAMS, _HASHES, _RARE = "dictionary.jsonl", "hashes.npz", "rare.npy"
_COLUMNS = ("records", "chars", "clean")


def prepare(config: DecontaminateConfig, work: Work, reporter: Reporter) -> dict[str, int]:
    """The dictionary, where every process finds it."""
    with reporter.task("decontaminate: n-grams of the tasks"):
        if config.dictionary is not None:
            dictionary = load(config.dictionary)
        else:
            dictionary = build(config.tasks, config.max_ngram, config.min_ngram)
        dictionary.save(work.path(_NGRAMS))
        dictionary.hashes().save(work.path(_HASHES))
    ngrams = {f"ngrams:{task}": number for task, number in dictionary.per_task().items()}
    return {**ngrams, "max_ngram": dictionary.max_ngram}


def _loaded(work: Work) -> Dictionary:
    path = work.path(_NGRAMS)
    return _read(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _read(path: Path, _: int) -> Dictionary:
    """Read once for all phases of a process."""
    return load(path)


def forget() -> None:
    """Give the memory of the dictionary back."""
    _read.cache_clear()


def _index(work: Work) -> NgramIndex:
    max_ngram = work.counts(DICTIONARY)["max_ngram"]
    return NgramIndex(NgramHashes.load(work.path(_HASHES)), max_ngram, lambda: _loaded(work).numbers)


class Count:
    """Says which records of a block hold n-grams, and which n-grams, each once a record."""

    def __init__(self, read: ReadConfig, work: Work) -> None:
        self._read = read
        self._index = _index(work)

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


def weigh(threshold: int, saved: str | None, work: Work, reporter: Reporter) -> dict[str, int]:
    """Which n-grams are rare enough to be cut out."""
    dictionary = _loaded(work)
    documents = dictionary.documents
    if documents is None:
        documents = np.zeros(len(dictionary.ngrams), dtype=np.int64)
        for path in work.parts(COUNT, "ngrams"):
            with path.open("rb") as file:
                while len(numbers := np.fromfile(file, dtype="<u4", count=1 << 20)):
                    documents += np.bincount(numbers, minlength=len(documents))
    # Also those that were not met: counting reads on behind a match, which may hide one.
    rare = documents < threshold
    np.save(work.path(_RARE), rare)
    if saved is not None:
        dictionary.counted(documents).save(work.path(saved))
    return {"common": int((~rare).sum())}


class Cut:
    """Writes a block's records, those with n-grams in pieces; the others are not looked at again."""

    def __init__(self, config: DecontaminateConfig, work: Work) -> None:
        self._config = config
        self._work = work
        self._index = _index(work)
        self._rare = np.load(work.path(_RARE))
        self._table = BlockTable(work.parts(COUNT, "table"), _COLUMNS)
        self._suspects = work.parts(COUNT, "suspects")

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
        dictionary = _loaded(self._work)
        tasks = Counter(dictionary.task_of(ngram) for ngram in ngrams)
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
            name = f"{before}{'-'.join(dictionary.tasks)}-{document:010d}-{i:04d}"
            out.keep({**record, key: piece, "split_id": name}, len(piece))
