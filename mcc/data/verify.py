"""Token files checked to the last number."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mcc.core.errors import MccError
from mcc.core.events import SILENT, Reporter
from mcc.data.indexed import IndexedDataset, bin_path
from mcc.data.merge import first_gap

_CHUNK_TOKENS = 1 << 20


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """What was found to be whole.

    Args:
        prefix: of the files.
        layout: mmap or cached.
        documents, sequences, tokens: how many there are.
        dtype: of the tokens.
        largest_token: None without tokens.
        vocab_size: what they were compared with, None for nothing.
        seconds: wall time.
    """

    prefix: str
    layout: str
    documents: int
    sequences: int
    tokens: int
    dtype: str
    largest_token: int | None
    vocab_size: int | None
    seconds: float


def verify(prefix: str | Path, vocab_size: int | None = None, reporter: Reporter = SILENT) -> VerifyReport:
    """Check the structure, every size, pointer and document entry, and that all tokens are in the vocabulary.

    Raises:
        MccError: the first thing that is wrong: which, and at which byte of which file.
    """
    started = time.perf_counter()
    data = IndexedDataset(prefix)
    data.verify()
    gap = first_gap(data)
    if gap is not None:
        i, end = gap
        tokens = bin_path(data.prefix)
        if i == len(data):
            left = tokens.stat().st_size - end
            raise MccError(
                f"{tokens}: {left} bytes from byte {end} on belong to no sequence",
                "some programs leave end-of-document tokens out of the sizes: tokenize again",
            )
        raise MccError(
            f"{data.prefix}.idx: byte {data.layout.place('pointers', i)}: sequence {i} starts at byte "
            f"{data.pointers[i]}, but the one before ends at {end}",
            "mcc data merge writes the sequences end to end",
        )
    largest = _check_tokens(data, vocab_size, reporter)
    return VerifyReport(
        prefix=str(data.prefix),
        layout=data.layout.kind,
        documents=data.documents,
        sequences=len(data),
        tokens=data.tokens,
        dtype=str(data.dtype),
        largest_token=largest,
        vocab_size=vocab_size,
        seconds=round(time.perf_counter() - started, 3),
    )


def _check_tokens(data: IndexedDataset, vocab_size: int | None, reporter: Reporter) -> int | None:
    """The largest token of files whose sequences stand end to end."""
    path, itemsize = bin_path(data.prefix), data.dtype.itemsize
    largest: int | None = None
    limit = np.inf if vocab_size is None else vocab_size
    start = 0
    with (
        path.open("rb") as file,
        reporter.task("verify", total=round(path.stat().st_size / 1e6, 1), unit="MB") as task,
    ):
        while raw := file.read(_CHUNK_TOKENS * itemsize):
            tokens = np.frombuffer(raw, dtype=data.dtype)
            low, high = tokens.min(), tokens.max()
            if low < 0 or high >= limit:
                place = start + int(np.flatnonzero((tokens < 0) | (tokens >= limit))[0])
                sequence = int(np.searchsorted(data.pointers, place * itemsize, side="right")) - 1
                raise MccError(
                    f"{path}: byte {place * itemsize}: token {tokens[place - start]} of sequence {sequence} is not in "
                    + ("any vocabulary" if vocab_size is None else f"the vocabulary of {vocab_size}"),
                    "were the files made with another tokenizer?",
                )
            largest = max(largest or 0, int(high))
            start += len(tokens)
            task.advance(len(raw) / 1e6)
    return largest
