"""Masks for BERT: whole words, in runs of one to three, drawn as Megatron-LM draws them so that samples are the same.

15% of a sample's tokens are to be predicted. Words are visited in a random order; a run of 1, 2 or 3 words from there,
with probability in proportion to 1/n, is taken unless it is too long for what is left or touches a run taken before. A
taken token becomes [MASK] (80%), stays (10%), or becomes any token (10%) (Devlin et al. 2019; runs: SpanBERT, Joshi et
al. 2020).
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcc.core.errors import MccError
from mcc.data.training.config import MaskConfig

_MASKED, _KEPT = 0.8, 0.5


@dataclass(frozen=True)
class Vocabulary:
    """What masking knows of a BERT vocabulary.

    Args:
        cls, sep, mask, pad: ids of the special tokens.
        starts: bool[V], whether a token begins a word (it has no `##`).
    """

    cls: int
    sep: int
    mask: int
    pad: int
    starts: NDArray[np.bool_]

    @staticmethod
    def of(tokenizer: Any) -> Vocabulary:
        """From a `tokenizers.Tokenizer` of word pieces.

        Raises:
            MccError: one of BERT's special tokens is missing.
        """
        names = {"cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]", "pad": "[PAD]"}
        ids = {role: tokenizer.token_to_id(name) for role, name in names.items()}
        missing = [names[role] for role, found in ids.items() if found is None]
        if missing:
            raise MccError(
                f"the tokenizer has no {', '.join(missing)}", "masked-LM training needs BERT's word pieces: vocab.txt"
            )
        pieces = tokenizer.get_vocab(with_added_tokens=True)
        starts = np.ones(max(pieces.values()) + 1, dtype=np.bool_)
        starts[[number for piece, number in pieces.items() if piece.startswith("##")]] = False
        return Vocabulary(**ids, starts=starts)

    def __len__(self) -> int:
        return len(self.starts)


class Masker:
    """Chooses and replaces the tokens of a sample that are predicted."""

    def __init__(self, vocabulary: Vocabulary, config: MaskConfig) -> None:
        self.vocabulary, self.config = vocabulary, config
        shares = 1.0 / np.arange(1, config.max_ngrams + 1)
        shares /= shares.sum()
        # As numpy's `choice` draws: where a uniform number falls among the running sums.
        sums = np.cumsum(shares / shares.sum())
        self._sums: list[float] = (sums / sums[-1]).tolist()

    def __call__(
        self, tokens: NDArray[np.int64], target_length: int, generator: np.random.RandomState
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(tokens[n] with masks, the places[m] in order that are predicted).

        Args:
            tokens: a sample with its special tokens.
            target_length: tokens that the sample was to have; no more than mask_prob of them are predicted.
            generator: at this sample's seed.
        """
        limit = int(min(self.config.mask_prob * target_length, max(1, round(len(tokens) * self.config.mask_prob))))
        words, bounds = self._words(tokens)
        count = len(bounds) - 1
        order = np.arange(count)
        generator.shuffle(order)
        uniform, sums = generator.random_sample, self._sums
        free = [True] * count
        places: list[int] = []
        masked: list[int] = []
        for word in order.tolist():
            if len(places) >= limit:
                break
            end = min(word + bisect_right(sums, uniform()) + 1, count)
            room = limit - len(places)
            # Of a run that is too long, its beginning.
            while bounds[end] - bounds[word] > room and end > word + 1:
                end -= 1
            if bounds[end] - bounds[word] > room or not all(free[word:end]):
                continue
            free[word:end] = [False] * (end - word)
            for place in words[bounds[word] : bounds[end]]:
                places.append(place)
                if uniform() < _MASKED:
                    masked.append(self.vocabulary.mask)
                elif uniform() < _KEPT:
                    masked.append(int(tokens[place]))
                else:
                    masked.append(int(generator.randint(0, len(self.vocabulary))))
        changed = tokens.copy()
        chosen = np.array(places, dtype=np.int64)
        changed[chosen] = masked
        chosen.sort()
        return changed, chosen

    def _words(self, tokens: NDArray[np.int64]) -> tuple[list[int], list[int]]:
        """The places of ordinary tokens, and where in that list each word starts (and the end)."""
        vocabulary = self.vocabulary
        places = np.flatnonzero((tokens != vocabulary.cls) & (tokens != vocabulary.sep))
        begins = vocabulary.starts[tokens[places]]
        begins[:1] = True
        return places.tolist(), [*np.flatnonzero(begins).tolist(), len(places)]


def crop(
    first: int, second: int, longest: int, generator: np.random.RandomState
) -> tuple[tuple[int, int], tuple[int, int]]:
    """What stays of halves of these lengths: (start, stop) of each, `longest` tokens in all.

    A token goes from the longer half, at its front or its back by chance (as Devlin et al. do).
    """
    ends = [[0, first], [0, second]]
    for draw in generator.random_sample(max(first + second - longest, 0)).tolist():
        half = ends[0] if ends[0][1] - ends[0][0] > ends[1][1] - ends[1][0] else ends[1]
        if draw < 0.5:
            half[0] += 1
        else:
            half[1] -= 1
    return (ends[0][0], ends[0][1]), (ends[1][0], ends[1][1])
