"""Training samples cut from token files exactly as Megatron-LM's GPT data set does, so that runs can be compared.

The documents of all epochs are laid end to end in a shuffled order and cut every L tokens; sample i is the L+1
tokens from position i*L (inputs and targets overlap by one). Samples are then visited in a shuffled order. When the
last epoch is needed for less than 80% of its samples, it is shuffled apart from the others.
"""

# L tokens per sample, E epochs, T tokens per epoch, N documents per epoch, M samples

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mcc.core.errors import MccError, UsageError
from mcc.data.indexed import IndexedDataset

# Below this share of an epoch's samples the last epoch is shuffled apart (Megatron-LM).
_SEPARATE_BELOW = 0.80


def split_documents(num_docs: int, split: str = "949,50,1") -> list[range]:
    """Train, validation and test documents by weight, rounded as Megatron-LM rounds.

    >>> split_documents(1000)
    [range(0, 949), range(949, 999), range(999, 1000)]
    >>> split_documents(10, "90,10")
    [range(0, 9), range(9, 10), range(10, 10)]

    Raises:
        UsageError: `split` is not one to three non-negative numbers, or they are all 0.
    """
    try:
        weights = [float(word) for word in split.replace("/", ",").split(",")]
    except ValueError:
        raise UsageError(f"split {split!r} is not a list of numbers", "for example 949,50,1") from None
    total = sum(weights)
    if not 1 <= len(weights) <= 3 or min(weights) < 0 or not 0 < total < float("inf"):
        raise UsageError(f"split {split!r} needs one to three weights that are not all 0", "for example 949,50,1")
    ends = [0]
    for weight in [*weights, 0.0, 0.0][:3]:
        ends.append(ends[-1] + round(weight / total * num_docs))
    # Megatron-LM takes the surplus of rounding off every end but the first; with few documents that can pass 0.
    surplus = ends[-1] - num_docs
    ends = [0] + [max(end - surplus, 0) for end in ends[1:]]
    return [range(start, max(start, end)) for start, end in pairwise(ends)]


@dataclass(frozen=True)
class Epochs:
    """How often the documents are passed over for M samples, and how many samples come before the last pass."""

    count: int
    before_last: int
    separate_last: bool


def count_epochs(tokens: int, seq_length: int, num_samples: int) -> Epochs:
    """The smallest E with floor((E*T - 1) / L) >= M; whether the last epoch is shuffled apart.

    >>> count_epochs(tokens=1000, seq_length=100, num_samples=25)
    Epochs(count=3, before_last=19, separate_last=True)
    """
    count = max(1, -(-(num_samples * seq_length + 1) // tokens))
    if count == 1:
        return Epochs(1, 0, False)
    before_last = ((count - 1) * tokens - 1) // seq_length
    per_epoch = (tokens - 1) // seq_length
    return Epochs(count, before_last, num_samples - before_last < int(_SEPARATE_BELOW * per_epoch))


@dataclass(frozen=True)
class SampleKey:
    """What decides the samples of token files: documents `start` .. `stop`-1, L, how many samples, and the seed."""

    start: int
    stop: int
    seq_length: int
    num_samples: int
    seed: int


@dataclass(frozen=True)
class Indices:
    """The order of documents int32[E*N], the sample starts int64[M+1, 2], and the order of samples uint32[M]."""

    doc_idx: NDArray[np.int32]
    sample_idx: NDArray[np.int64]
    shuffle_idx: NDArray[np.unsignedinteger]


def build_indices(dataset: IndexedDataset, documents: NDArray[np.int32], key: SampleKey) -> Indices:
    """The indices of some sequences for a setting.

    Raises:
        MccError: the documents hold no tokens.
    """
    tokens = int(dataset.sizes[documents].sum(dtype=np.int64)) if len(documents) else 0
    if tokens == 0:
        raise MccError(f"{dataset.prefix}: {len(documents)} documents without tokens", "give this split more weight")
    epochs = count_epochs(tokens, key.seq_length, key.num_samples)
    generator = np.random.RandomState(key.seed)
    doc_idx = _document_order(documents, epochs, generator)
    sample_idx = window_starts(dataset.sizes, doc_idx, key.seq_length)
    total = len(sample_idx) - 1
    shuffle_idx = _visiting_order(epochs.before_last if epochs.separate_last else total, total, generator)
    return Indices(doc_idx, sample_idx, shuffle_idx)


class GPTSamples:
    """At least `num_samples` samples of L+1 tokens from some documents, in Megatron-LM's order.

    Args:
        dataset: the token file.
        documents: which sequences of it, for instance from `split_documents`.
        seq_length: L.
        num_samples: how many are wanted; `len` is the next whole number of epochs.
        seed: of the one generator that shuffles documents, then samples.
        indices: what `build_indices` gave for this setting; None to build them.

    Attributes:
        doc_idx: int32[E*N], the documents in the order in which they are laid end to end.
        sample_idx: int64[M+1, 2], position in `doc_idx` and token offset at which each sample starts.
        shuffle_idx: uint32[M], the order in which samples are visited.

    Raises:
        MccError: the documents hold no tokens, or too few for one sample.
    """

    def __init__(
        self,
        dataset: IndexedDataset,
        documents: range | Sequence[int] | NDArray[np.integer],
        seq_length: int,
        num_samples: int,
        seed: int = 1234,
        indices: Indices | None = None,
    ) -> None:
        if seq_length < 1 or num_samples < 1:
            raise UsageError(f"seq_length = {seq_length} and num_samples = {num_samples} must be at least 1")
        self.dataset = dataset
        self.seq_length = seq_length
        self.documents = np.asarray(documents, dtype=np.int32)
        if indices is None:
            key = SampleKey(0, len(self.documents), seq_length, num_samples, seed)
            indices = build_indices(dataset, self.documents, key)
        self.doc_idx, self.sample_idx, self.shuffle_idx = indices.doc_idx, indices.sample_idx, indices.shuffle_idx

    def __len__(self) -> int:
        return len(self.shuffle_idx)

    def __getitem__(self, i: int) -> NDArray[np.int64]:
        """int64[L+1]: the tokens of the i-th sample visited."""
        sample = int(self.shuffle_idx[i])
        (first, start), (last, end) = self.sample_idx[sample], self.sample_idx[sample + 1]
        first, start, last, end = int(first), int(start), int(last), int(end)
        out = np.empty(self.seq_length + 1, dtype=np.int64)
        filled = 0
        for position in range(first, last + 1):
            document = int(self.doc_idx[position])
            begin = start if position == first else 0
            # The last token of a sample is the first of the next one, so the end is inclusive.
            stop = end + 1 if position == last else int(self.dataset.sizes[document])
            out[filled : filled + stop - begin] = self.dataset.get(document, begin, stop - begin)
            filled += stop - begin
        assert filled == self.seq_length + 1
        return out

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        return (self[i] for i in range(len(self)))


def _document_order(
    documents: NDArray[np.int32], epochs: Epochs, generator: np.random.RandomState
) -> NDArray[np.int32]:
    """int32[E*N]: all epochs shuffled together, or the last one apart."""
    together = epochs.count - 1 if epochs.separate_last else epochs.count
    order = np.tile(documents, together)
    generator.shuffle(order)
    if not epochs.separate_last:
        return order
    last = documents.copy()
    generator.shuffle(last)
    return np.concatenate((order, last))


def window_starts(sizes: NDArray[np.int32], doc_idx: NDArray[np.int32], seq_length: int) -> NDArray[np.int64]:
    """int64[M+1, 2]: where token i*L stands, for every i: (position in doc_idx, offset)."""
    starts = np.zeros(len(doc_idx) + 1, dtype=np.int64)
    np.cumsum(sizes[doc_idx], out=starts[1:])
    samples = (int(starts[-1]) - 1) // seq_length
    wanted = np.arange(samples + 1, dtype=np.int64) * seq_length
    # `right`: a document without tokens starts where the next one does, and holds nothing.
    position = np.searchsorted(starts, wanted, side="right") - 1
    return np.stack((position, wanted - starts[position]), axis=1)


def _visiting_order(before_last: int, total: int, generator: np.random.RandomState) -> NDArray[np.unsignedinteger]:
    """Samples of the first epochs shuffled, then those of the last when it stands apart."""
    dtype = np.uint32 if total < np.iinfo(np.uint32).max - 1 else np.int64
    first = np.arange(before_last, dtype=dtype)
    generator.shuffle(first)
    if before_last == total:
        return first
    last = np.arange(before_last, total, dtype=dtype)
    generator.shuffle(last)
    return np.concatenate((first, last))
