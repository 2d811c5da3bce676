"""The index of token files written from streams: memory does not grow with the number of sequences.

The layout is in `mcc.data.indexed`; two streams decide it: the size of every sequence, and how many sequences each
document has.
"""

# S sequences, D documents

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mcc.data.tokens.layouts import HEADER, MAGIC, VERSION, code_of

# Numbers at a time.
_CHUNK = 1 << 16

# Gives int32 arrays, from the start each time it is called.
Stream = Callable[[], Iterable[NDArray[Any]]]


def write_index(path: Path, dtype: DTypeLike, sizes: Stream, documents: Stream) -> tuple[int, int, int]:
    """Write the index of tokens that stand end to end.

    Args:
        path: of the file.
        dtype: of the tokens.
        sizes: the tokens of each sequence.
        documents: the sequences of each document.

    Returns:
        (sequences, documents, tokens).
    """
    kind = np.dtype(dtype).newbyteorder("<")
    count, tokens = _totals(sizes())
    entries, covered = _totals(documents())
    assert covered == count, "documents must cover all sequences"
    with path.open("wb") as file:
        file.write(HEADER.pack(MAGIC, VERSION, code_of(kind), count, entries + 1))
        for chunk in sizes():
            file.write(chunk.astype("<i4").tobytes())
        _write_starts(file, sizes(), kind.itemsize)
        file.write(np.zeros(1, dtype="<i8").tobytes())
        _write_ends(file, documents())
    return count, entries, tokens


def _totals(chunks: Iterable[NDArray[Any]]) -> tuple[int, int]:
    """How many numbers, and their sum."""
    count = total = 0
    for chunk in chunks:
        count += len(chunk)
        total += int(chunk.sum(dtype=np.int64))
    return count, total


def _write_starts(file: BinaryIO, chunks: Iterable[NDArray[Any]], itemsize: int) -> None:
    """int64 byte offset at which each sequence starts."""
    start = 0
    for chunk in chunks:
        ends = np.cumsum(chunk, dtype=np.int64)
        file.write(((ends - chunk + start) * itemsize).astype("<i8").tobytes())
        start += int(ends[-1]) if len(ends) else 0


def _write_ends(file: BinaryIO, chunks: Iterable[NDArray[Any]]) -> None:
    """int64 number of the first sequence behind each document."""
    start = 0
    for chunk in chunks:
        ends = np.cumsum(chunk, dtype=np.int64) + start
        file.write(ends.astype("<i8").tobytes())
        start = int(ends[-1]) if len(ends) else start


def numbers(paths: Iterable[Path], dtype: DTypeLike = "<i4") -> Iterator[NDArray[Any]]:
    """The numbers in files of nothing else, in chunks."""
    kind = np.dtype(dtype)
    for path in paths:
        with path.open("rb") as file:
            while raw := file.read(_CHUNK * kind.itemsize):
                yield np.frombuffer(raw, dtype=kind)


def pieces(values: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """A (mapped) array in chunks; what has been read of the file does not stay in this process's memory."""
    mapped = _mapping(values)
    for start in range(0, len(values), _CHUNK):
        yield values[start : start + _CHUNK]
        if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)


def _mapping(values: Any) -> mmap.mmap | None:
    """The mapped file behind an array."""
    while isinstance(values, np.ndarray):
        values = values.base
    return values if isinstance(values, mmap.mmap) else None
