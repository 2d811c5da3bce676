"""Near-duplicate documents removed: MinHash-LSH finds candidates, the exact Jaccard index decides, the first stays.

A document is removed when it is at least `threshold` like an earlier one that was kept, so that no two kept documents
are duplicates of each other and chains of ever less similar documents do not collapse into one.
"""

# n documents, b bands

from __future__ import annotations

import os
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import orjson
from numpy.typing import NDArray

from mcc.core.config import option
from mcc.core.errors import MccError, UsageError
from mcc.core.events import SILENT, Reporter
from mcc.data.documents import ReadConfig, Record
from mcc.data.minhash import Alphabet, Bands, Signer, choose_bands, jaccard, set_jaccard, shingles
from mcc.data.step import RecordWriter, Step, StepReport, work_folder

# Documents kept at hand while their duplicates are looked for.
_CACHED_DOCUMENTS = 128


@dataclass(frozen=True, kw_only=True)
class DedupConfig:
    """What counts as a duplicate, and how hard it is looked for.

    Raises:
        UsageError: a number is out of bounds, or only one of `bands` and `rows` is given.
    """

    threshold: float = option(0.8, "least Jaccard index of duplicates")
    shingle_chars: int = option(5, "characters of a shingle")
    num_perm: int = option(128, "values of a signature, at most")
    bands: int | None = option(None, "bands of the signature [chosen by datasketch]")
    rows: int | None = option(None, "values of a band [chosen by datasketch]")
    key: str | None = option(None, "key that names a document in the duplicates file [id, url or FILE:LINE]")
    read: ReadConfig = field(default_factory=ReadConfig)

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise UsageError(f"threshold = {self.threshold} must be above 0 and at most 1")
        if self.shingle_chars < 1:
            raise UsageError(f"shingle_chars = {self.shingle_chars} must be at least 1")
        if self.num_perm < 2:
            raise UsageError(f"num_perm = {self.num_perm} must be at least 2")
        if (self.bands is None) != (self.rows is None):
            raise UsageError("bands and rows are given together or not at all")
        if self.bands is not None and (self.bands < 1 or self.rows is None or self.rows < 1):
            raise UsageError(f"bands = {self.bands} and rows = {self.rows} must be at least 1")

    def layout(self) -> Bands:
        """The bands given, or chosen for the threshold."""
        if self.bands is not None and self.rows is not None:
            return Bands(self.bands, self.rows)
        return choose_bands(self.threshold, self.num_perm)


@dataclass(frozen=True, kw_only=True)
class DedupReport(StepReport):
    """`candidates` were compared exactly."""

    removed: int
    candidates: int
    bands: int
    rows: int


def dedup(
    inputs: Sequence[str | Path],
    output: Path,
    config: DedupConfig | None = None,
    reporter: Reporter = SILENT,
    *,
    duplicates: Path | None = None,
) -> DedupReport:
    """Write the documents without near-duplicates, in their order.

    Args:
        duplicates: gets one line `{"removed", "kept", "similarity"}` for each removed document.

    Needs room on the disk of `output` for a copy of the documents; resident are about 50 bytes a document besides
    what candidates take.

    Raises:
        MccError: bad input (see `Reader`), or a document lacks `key`.
    """
    config = config or DedupConfig()
    layout = config.layout()
    step = Step("dedup", inputs, output, read=config.read, reporter=reporter)
    if duplicates is not None and duplicates.resolve() in {output.resolve(), *(p.resolve() for p in step.reader.paths)}:
        raise UsageError(f"{duplicates} is an input or the output too", "choose another path for --duplicates")
    with ExitStack() as stack:
        writer = stack.enter_context(RecordWriter(duplicates)) if duplicates is not None else None
        stack.enter_context(step)
        store = stack.enter_context(_Store(stack.enter_context(work_folder(output)), layout.bands))
        _sign(step, store, Signer(layout), config)
        keeper = _Keeper(store, config)
        with reporter.task("dedup: compare", total=len(store), unit="documents") as task:
            for i in range(len(store)):
                found = keeper.duplicate_of(i)
                if found is None:
                    step.write(store.record(i))
                elif writer is not None:
                    kept, similarity = found
                    writer.write(
                        {"removed": store.name(i), "kept": store.name(kept), "similarity": round(similarity, 6)}
                    )
                task.advance()
    outputs = (str(output), *([str(duplicates)] if duplicates is not None else []))
    return step.report(
        DedupReport,
        outputs=outputs,
        removed=step.documents_in - step.documents_out,
        candidates=keeper.compared,
        bands=layout.bands,
        rows=layout.rows,
    )


def _sign(step: Step, store: _Store, signer: Signer, config: DedupConfig) -> None:
    """First pass: every document to disk, with the keys of its bands."""
    text_key = config.read.keys[0]
    for record in step.records():
        found = shingles(record[text_key], config.shingle_chars)
        # Documents without text are alike: one key for all.
        keys = signer.band_keys(signer.signature(found)) if len(found) else np.zeros(store.bands, np.uint64)
        store.add(record, _name(record, config.key, step.reader.where), keys, len(found))


def _name(record: Record, key: str | None, where: str) -> Any:
    if key is not None:
        if key not in record:
            raise MccError(f"{where}: no key {key!r} to name the document by", "choose another --key")
        return record[key]
    return next((record[name] for name in ("id", "url") if name in record), where)


class _Store:
    """The documents on disk, to be read again in any order."""

    def __init__(self, folder: Path, bands: int) -> None:
        self.bands = bands
        self._texts_path, self._keys_path = folder / "documents", folder / "keys"
        self._starts = array("q", [0])
        self._counts = array("q")

    def __enter__(self) -> _Store:
        self._texts: IO[bytes] = self._texts_path.open("w+b", buffering=1 << 20)
        self._keys: IO[bytes] = self._keys_path.open("w+b", buffering=1 << 20)
        return self

    def __exit__(self, *_: object) -> None:
        self._texts.close()
        self._keys.close()

    def add(self, record: Record, name: Any, keys: NDArray[np.uint64], shingles: int) -> None:
        line = orjson.dumps((name, record))
        self._texts.write(line)
        self._keys.write(keys.tobytes())
        self._starts.append(self._starts[-1] + len(line))
        self._counts.append(shingles)

    def __len__(self) -> int:
        return len(self._counts)

    def _read(self, i: int) -> tuple[Any, Record]:
        # Not through the buffer: it would read a megabyte for every document.
        line = os.pread(self._texts.fileno(), self._starts[i + 1] - self._starts[i], self._starts[i])
        name, record = orjson.loads(line)
        return name, record

    def record(self, i: int) -> Record:
        return self._read(i)[1]

    def name(self, i: int) -> Any:
        return self._read(i)[0]

    def shingle_count(self, i: int) -> int:
        return self._counts[i]

    def finish(self) -> dict[int, list[int]]:
        """End writing. Document -> its buckets, for documents that share a bucket with another one."""
        self._keys.flush()
        self._texts.flush()
        keys: NDArray[np.uint64] = np.memmap(self._keys_path, dtype=np.uint64, mode="r").reshape(len(self), self.bands)
        shared: dict[int, list[int]] = {}
        bucket = 0
        for band in range(self.bands):
            column = np.array(keys[:, band])
            order = np.argsort(column, kind="stable")
            ordered = column[order]
            same = ordered[1:] == ordered[:-1]
            # A run of equal keys is a bucket; the first of a run differs from the one before.
            inside = np.concatenate(([False], same)) | np.concatenate((same, [False]))
            numbers = bucket + np.cumsum(np.concatenate(([True], ~same)))
            for document, number in zip(order[inside].tolist(), numbers[inside].tolist(), strict=True):
                shared.setdefault(document, []).append(number)
            bucket = int(numbers[-1])
        return shared


class _Keeper:
    """Second pass: decides document by document, in order."""

    def __init__(self, store: _Store, config: DedupConfig) -> None:
        self._store = store
        self._config = config
        self._buckets = store.finish()
        self._kept: dict[int, list[int]] = {}  # bucket -> its kept documents
        self._documents: OrderedDict[int, tuple[str, NDArray[np.uint64] | None]] = OrderedDict()
        self._alphabet = Alphabet()
        self.compared = 0

    def duplicate_of(self, i: int) -> tuple[int, float] | None:
        """The earliest kept document that `i` is a duplicate of, with the Jaccard index; None: `i` is kept."""
        buckets = self._buckets.get(i)
        if buckets is None:
            return None
        for candidate in sorted({kept for bucket in buckets for kept in self._kept.get(bucket, ())}):
            # |A and B| / |A or B| is at most the ratio of the sizes.
            small, large = sorted((self._store.shingle_count(i), self._store.shingle_count(candidate)))
            if large and small / large < self._config.threshold:
                continue
            self.compared += 1
            similarity = self._likeness(i, candidate)
            if similarity >= self._config.threshold:
                return candidate, similarity
        for bucket in buckets:
            self._kept.setdefault(bucket, []).append(i)
        return None

    def _likeness(self, i: int, j: int) -> float:
        (left, left_set), (right, right_set) = self._document(i), self._document(j)
        if left_set is None or right_set is None:
            return jaccard(left, right, self._config.shingle_chars)
        return set_jaccard(left_set, right_set)

    def _document(self, i: int) -> tuple[str, NDArray[np.uint64] | None]:
        """The text, and its shingles when they can be packed."""
        found = self._documents.get(i)
        if found is None:
            text = str(self._store.record(i)[self._config.read.keys[0]])
            found = self._documents[i] = text, self._alphabet.shingles(text, self._config.shingle_chars)
            if len(self._documents) > _CACHED_DOCUMENTS:
                self._documents.popitem(last=False)
        else:
            self._documents.move_to_end(i)
        return found
