"""BERT's samples: [CLS] half [SEP] half [SEP], masked, with the label of the pair; Megatron-LM's, draw for draw.

Sample i draws from a generator seeded with seed + i alone: it is the same whoever makes it.
"""

# T tokens per sample

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcc.core.errors import UsageError
from mcc.data.indexed import IndexedDataset
from mcc.data.training.config import MaskConfig
from mcc.data.training.masking import Masker, Vocabulary, crop
from mcc.data.training.sentence_pairs import SPECIAL_TOKENS, PairKey, build_pairs


@dataclass(frozen=True)
class BertSample:
    """A padded sample of T tokens.

    Attributes:
        tokens: int64[T] with masks.
        token_types: int64[T], 0 in the first half.
        padding: bool[T], True where a token is.
        targets: int64[T], what stood where a token is predicted, else 0.
        weights: float32[T], 1 there, else 0.
        label: 1 when the halves are swapped (or the second is another document's), else 0.
    """

    tokens: NDArray[np.int64]
    token_types: NDArray[np.int64]
    padding: NDArray[np.bool_]
    targets: NDArray[np.int64]
    weights: NDArray[np.float32]
    label: int


class BertSamples:
    """At least `key.num_samples` samples from the documents of token files with a sequence a sentence.

    Args:
        dataset: the token file.
        key: which documents, T, how many, the seed.
        vocabulary: BERT's.
        config: pairs and masks; it agrees with `key`.
        pairs: what `build_pairs` gave for `key`; None to build it.

    Raises:
        UsageError: T is too short. MccError: no document has enough sentences.
    """

    def __init__(
        self,
        dataset: IndexedDataset,
        key: PairKey,
        vocabulary: Vocabulary,
        config: MaskConfig,
        pairs: NDArray[np.unsignedinteger] | None = None,
    ) -> None:
        if key.seq_length < SPECIAL_TOKENS + 2:
            room = f"two tokens and {SPECIAL_TOKENS} special ones"
            raise UsageError(f"seq_length = {key.seq_length} has no room for {room}")
        assert (key.min_sentences, key.short_seq_prob) == (config.min_sentences, config.short_seq_prob)
        self.dataset, self.key, self.vocabulary, self.config = dataset, key, vocabulary, config
        self.pairs = build_pairs(dataset, key) if pairs is None else pairs
        self._mask = Masker(vocabulary, config)
        # Seeding one anew costs nothing against making one; it serves one thread.
        self._generator = np.random.RandomState()

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, i: int) -> BertSample:
        generator = self._generator
        generator.seed((self.key.seed + i) % (1 << 32))
        start, stop, target = (int(value) for value in self.pairs[i])
        sentences = [self.dataset[s] for s in range(start, stop)]
        first, second, label = self._halves(sentences, start, generator)
        (a, b), (c, d) = crop(len(first), len(second), target, generator)
        return self._sample(first[a:b], second[c:d], label, target, generator)

    def _halves(
        self, sentences: list[NDArray[Any]], start: int, generator: np.random.RandomState
    ) -> tuple[NDArray[Any], NDArray[Any], int]:
        if self.config.pairs == "none":
            return np.concatenate(sentences), np.empty(0, dtype=np.int64), 0
        cut = generator.randint(1, len(sentences)) if len(sentences) >= 3 else 1
        first, second = np.concatenate(sentences[:cut]), np.concatenate(sentences[cut:])
        if generator.random_sample() >= 0.5:
            return first, second, 0
        if self.config.pairs == "order":
            return second, first, 1
        return first, self._from_elsewhere(start, generator), 1

    def _from_elsewhere(self, start: int, generator: np.random.RandomState) -> NDArray[Any]:
        """Sentences of another document (Devlin et al. 2019); of the same only when ten draws find no other."""
        document = np.searchsorted(self.dataset.doc_idx, start, side="right")
        for _ in range(10):
            first, stop, _ = (int(value) for value in self.pairs[generator.randint(0, len(self.pairs))])
            if np.searchsorted(self.dataset.doc_idx, first, side="right") != document:
                break
        return np.concatenate([self.dataset[s] for s in range(generator.randint(first, stop), stop)])

    def _sample(
        self, first: NDArray[Any], second: NDArray[Any], label: int, target: int, generator: np.random.RandomState
    ) -> BertSample:
        vocabulary, T = self.vocabulary, self.key.seq_length
        length = len(first) + 2 + (len(second) + 1 if len(second) else 0)
        whole = np.full(T, vocabulary.pad, dtype=np.int64)
        whole[0] = vocabulary.cls
        whole[1 : len(first) + 1] = first
        whole[len(first) + 1] = vocabulary.sep
        # Megatron-LM fills the types of padding with the padding token's id.
        types = np.full(T, vocabulary.pad, dtype=np.int64)
        types[: len(first) + 2] = 0
        if len(second):
            whole[len(first) + 2 : length - 1] = second
            whole[length - 1] = vocabulary.sep
            types[len(first) + 2 : length] = 1
        masked, places = self._mask(whole[:length], target, generator)
        tokens, targets = whole.copy(), np.zeros(T, dtype=np.int64)
        tokens[:length] = masked
        targets[places] = whole[places]
        weights = np.zeros(T, dtype=np.float32)
        weights[places] = 1.0
        return BertSample(tokens, types, np.arange(T) < length, targets, weights, label)
