"""Numbers about a token file, read in pieces."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from mcc.core.errors import MccError
from mcc.data.indexed import IndexedDataset

_CHUNK_SEQUENCES = 4096


def token_counts(dataset: IndexedDataset, documents: Iterable[int] | None = None) -> NDArray[np.int64]:
    """int64[largest token + 1]: how often each token occurs in some (default: all) sequences."""
    chosen = np.fromiter(range(len(dataset)) if documents is None else documents, dtype=np.int64)
    counts = np.zeros(0, dtype=np.int64)
    for start in range(0, len(chosen), _CHUNK_SEQUENCES):
        tokens = np.concatenate([dataset[int(i)] for i in chosen[start : start + _CHUNK_SEQUENCES]])
        if not tokens.size:
            continue
        if int(tokens.min()) < 0:
            raise MccError(f"{dataset.prefix}: negative token {int(tokens.min())}")
        found = np.bincount(tokens.astype(np.int64), minlength=len(counts))
        found[: len(counts)] += counts
        counts = found.astype(np.int64)
    return counts


def unigram_entropy(dataset: IndexedDataset, documents: Iterable[int] | None = None) -> float:
    """Entropy of the token frequencies in nats per token: -sum p ln p.

    It is the loss of the best model that knows frequencies and nothing else (Shannon 1948).

    Raises:
        MccError: there are no tokens.
    """
    counts = token_counts(dataset, documents)
    total = counts.sum()
    if not total:
        raise MccError(f"{dataset.prefix}: no tokens to take the entropy of")
    p = counts[counts > 0] / total
    return float(-(p * np.log(p)).sum())


def length_histogram(dataset: IndexedDataset) -> list[tuple[int, int, int]]:
    """`(from, below, sequences)` for lengths 0, 1, 2-3, 4-7, 8-15, ... tokens, first filled bin to last."""
    if not len(dataset):
        return []
    bins = np.zeros(len(dataset), dtype=np.int64)
    positive = dataset.sizes > 0
    bins[positive] = np.floor(np.log2(dataset.sizes[positive])).astype(np.int64) + 1
    counts = np.bincount(bins)
    first = int(np.flatnonzero(counts)[0])
    return [(1 << i - 1 if i else 0, 1 << i, int(counts[i])) for i in range(first, len(counts))]
