"""Where BERT's samples start and end: runs of whole sentences of a document, exactly as Megatron-LM maps them.

A document's sentences are taken in order until a sample has its target length and at least two are left for the next;
the last sample takes the rest. A document of fewer than two sentences (one, without pairs) or with a sentence of more
than 512 tokens is left out. A tenth of the targets are short: BERT saw short sequences in training too (Devlin et al.
2019). All samples of all epochs are shuffled together.
"""

# S sentences, D documents, M samples

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mcc.core.errors import MccError
from mcc.data.indexed import IndexedDataset
from mcc.data.training.mersenne import shuffled

# Tokens of a sentence that keeps its document out (Megatron-LM).
_LONG_SENTENCE = 512
# [CLS], and [SEP] after each half.
SPECIAL_TOKENS = 3
# Sentences whose running lengths are Python numbers at one time, and targets drawn at once.
_SENTENCES, _DRAWS = 1 << 20, 1 << 16


@dataclass(frozen=True)
class PairKey:
    """What decides BERT's samples: documents `start` .. `stop`-1, T, how many samples, the seed, and the rules.

    Args:
        seq_length: T, special tokens included.
        short_seq_prob: probability of a short target.
        min_sentences: 2, or 1 for samples that are not pairs.
    """

    start: int
    stop: int
    seq_length: int
    num_samples: int
    seed: int
    short_seq_prob: float = 0.1
    min_sentences: int = 2


def build_pairs(dataset: IndexedDataset, key: PairKey) -> NDArray[np.unsignedinteger]:
    """uint32[M, 3] (int64 for very many sentences): first sentence, one past the last, target length in tokens.

    M is at least `key.num_samples`: epochs are whole.

    Raises:
        MccError: no document has enough sentences.
    """
    longest = key.seq_length - SPECIAL_TOKENS
    bounds = np.asarray(dataset.doc_idx[key.start : key.stop + 1], dtype=np.int64)
    taken = _usable(dataset.sizes, bounds, key.min_sentences)
    targets = _targets(longest, key.short_seq_prob, key.seed)
    rows = array("q")
    while len(rows) < 3 * key.num_samples:
        before = len(rows)
        for lengths, starts, stops, base in _blocks(dataset.sizes, bounds, taken):
            for start, stop in zip(starts, stops, strict=True):
                _cut(lengths, start, stop, base, key.min_sentences, targets, rows)
        if len(rows) == before:
            raise MccError(
                f"{dataset.prefix}: none of {max(key.stop - key.start, 0)} documents has {key.min_sentences} sentences "
                f"of at most {_LONG_SENTENCE} tokens",
                "mcc data preprocess --split-sentences makes token files with a sequence a sentence",
            )
    found = np.frombuffer(rows, dtype=np.int64).reshape(-1, 3)
    found = found[shuffled(len(found), key.seed + 1)]
    return found.astype(np.uint32) if len(dataset) < np.iinfo(np.uint32).max else found  # type: ignore[return-value]


def _cut(
    lengths: list[int], start: int, stop: int, base: int, least: int, targets: Iterator[int], rows: array[int]
) -> None:
    """The samples of the document of sentences start .. stop-1; lengths[i]: tokens before sentence base + i."""
    target = next(targets)
    while start < stop:
        # The end is the first place with `target` tokens before it that leaves two sentences, or the document's end.
        low, high = start + least, stop - 1
        end = stop
        if low < high:
            found = bisect_left(lengths, lengths[start - base] + target, low - base, high - base) + base
            end = found if found < high else stop
        rows.extend((start, end, target))
        target = next(targets)
        start = end


def _usable(sizes: NDArray[np.int32], bounds: NDArray[np.int64], least: int) -> NDArray[np.int64]:
    """Which documents are cut."""
    first, last = (int(bounds[0]), int(bounds[-1])) if len(bounds) else (0, 0)
    long_before = np.zeros(last - first + 1, dtype=np.int64)
    np.cumsum(sizes[first:last] > _LONG_SENTENCE, out=long_before[1:])
    places = bounds - first
    sentences, long = np.diff(bounds), np.diff(long_before[places])
    return np.flatnonzero((sentences >= least) & ((long == 0) | (sentences == 1)))


def _blocks(
    sizes: NDArray[np.int32], bounds: NDArray[np.int64], taken: NDArray[np.int64]
) -> Iterator[tuple[list[int], list[int], list[int], int]]:
    """Documents of about `_SENTENCES` sentences at a time: running lengths from the first, starts, stops, the first."""
    ends = bounds[taken + 1]
    first = 0
    while first < len(taken):
        base = int(bounds[taken[first]])
        done = max(first + 1, int(np.searchsorted(ends, base + _SENTENCES, side="right")))
        mine = taken[first:done]
        end = int(ends[done - 1])
        lengths = np.zeros(end - base + 1, dtype=np.int64)
        np.cumsum(sizes[base:end], out=lengths[1:])
        yield lengths.tolist(), bounds[mine].tolist(), bounds[mine + 1].tolist(), base
        first = done


def _targets(longest: int, short_seq_prob: float, seed: int) -> Iterator[int]:
    """Target lengths without end, from std::mt19937's stream: short ones between 2 and `longest`."""
    if short_seq_prob <= 0:
        while True:
            yield longest
    every = int(1.0 / short_seq_prob + 0.5)
    generator = np.random.RandomState(seed % (1 << 32))
    while True:
        drawn = generator.randint(0, 1 << 32, size=_DRAWS, dtype=np.uint32).astype(np.int64)
        yield from np.where(drawn % every == 0, 2 + drawn % (longest - 1), longest).tolist()
