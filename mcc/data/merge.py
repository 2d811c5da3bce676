"""Token files joined one after the other, as Megatron-LM's tools/merge_datasets.py joins them; streaming."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from mcc.core.errors import MccError, UsageError
from mcc.core.events import SILENT, Reporter
from mcc.core.files import atomic_path, remove
from mcc.data.indexed import IndexedDataset, bin_path, index_path
from mcc.data.tokens.index_file import pieces, write_index

_COPY_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class MergeReport:
    """What was joined.

    Args:
        sources: prefixes, in order.
        prefix: of the result.
        documents, sequences, tokens: of the result.
        dtype: of the tokens.
        seconds: wall time.
    """

    sources: tuple[str, ...]
    prefix: str
    documents: int
    sequences: int
    tokens: int
    dtype: str
    seconds: float


def prefixes_in(folder: str | Path) -> list[Path]:
    """The prefixes of all token files in a folder, by name.

    Raises:
        MccError: there is none, or one of a pair is missing.
    """
    root = Path(folder)
    if not root.is_dir():
        raise MccError(f"{root} is not a folder", "give the folder of .bin/.idx files")
    found = {path.with_suffix("") for path in root.iterdir() if path.suffix in (".bin", ".idx") and path.is_file()}
    if not found:
        raise MccError(f"no .bin/.idx files in {root}", "give the folder of token files")
    for prefix in found:
        for path in (bin_path(prefix), index_path(prefix)):
            if not path.is_file():
                raise MccError(f"{path} is missing beside its other half", "copy both files")
    return sorted(found, key=lambda path: path.name)


def merge(sources: Sequence[str | Path], output_prefix: str | Path, reporter: Reporter = SILENT) -> MergeReport:
    """Join token files in the order given.

    The bytes are those of Megatron-LM's merge; a source whose sequences do not stand end to end is put in order.

    Raises:
        MccError: a source is damaged, or their dtypes differ.
        UsageError: a source is the output.
    """
    started = time.perf_counter()
    output = Path(output_prefix)
    opened = IndexedDataset(sources[0]) if sources else None
    if opened is None:
        raise UsageError("nothing to merge", "give the prefixes of .bin/.idx files")
    prefixes = []
    for source in sources:
        data = IndexedDataset(source)
        data.verify()
        if data.dtype != opened.dtype:
            raise MccError(
                f"{data.prefix} holds {data.dtype}, {opened.prefix} {opened.dtype}",
                "merge files that were made with the same tokenizer",
            )
        if data.prefix.resolve() == output.resolve():
            raise UsageError(f"{output} is both input and output", "choose another --output-prefix")
        prefixes.append(data.prefix)

    def sizes() -> Iterator[NDArray[Any]]:
        return (chunk for prefix in prefixes for chunk in pieces(IndexedDataset(prefix).sizes))

    def documents() -> Iterator[NDArray[Any]]:
        return (chunk for prefix in prefixes for chunk in document_sizes(IndexedDataset(prefix)))

    total = sum(bin_path(prefix).stat().st_size for prefix in prefixes) / 1e6
    with (
        atomic_path(index_path(output)) as index,
        atomic_path(bin_path(output)) as tokens,
        reporter.task("merge", total=round(total, 1), unit="MB") as task,
    ):
        with tokens.open("wb") as file:
            for prefix in prefixes:
                _copy(IndexedDataset(prefix), file)
                task.advance(bin_path(prefix).stat().st_size / 1e6)
        sequences, count, length = write_index(index, opened.dtype, sizes, documents)
        # An old index beside new tokens would be read as garbage.
        remove(index_path(output))
    return MergeReport(
        sources=tuple(map(str, prefixes)),
        prefix=str(output),
        documents=count,
        sequences=sequences,
        tokens=length,
        dtype=str(opened.dtype),
        seconds=round(time.perf_counter() - started, 3),
    )


def document_sizes(data: IndexedDataset) -> Iterator[NDArray[np.int64]]:
    """The number of sequences of each document, in chunks."""
    last = 0
    for entries in pieces(data.doc_idx[1:]):
        yield np.diff(entries, prepend=last)
        last = int(entries[-1])


def is_contiguous(data: IndexedDataset) -> bool:
    """Whether the sequences stand end to end from the first byte to the last."""
    end = first_gap(data)
    return end is None


def first_gap(data: IndexedDataset) -> tuple[int, int] | None:
    """(i, byte): the first sequence that does not start where the one before ends, and where that is; None if all do.

    `i` is the number of sequences when bytes are left over at the end.
    """
    end = start = 0
    for sizes, pointers in zip(pieces(data.sizes), pieces(data.pointers), strict=True):
        ends = np.cumsum(sizes, dtype=np.int64) * data.dtype.itemsize + end
        wrong = np.flatnonzero(pointers != ends - sizes.astype(np.int64) * data.dtype.itemsize)
        if wrong.size:
            i = int(wrong[0])
            return start + i, int(ends[i - 1]) if i else end
        end, start = int(ends[-1]), start + len(sizes)
    return None if end == bin_path(data.prefix).stat().st_size else (start, end)


def _copy(data: IndexedDataset, file: BinaryIO) -> None:
    if is_contiguous(data):
        with bin_path(data.prefix).open("rb") as source:
            shutil.copyfileobj(source, file, _COPY_BYTES)
        return
    for tokens in data:
        file.write(tokens.tobytes())
