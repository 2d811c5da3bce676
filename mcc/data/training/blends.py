"""Several token files in one run, each with its weight: `0.3 A 0.7 B`, mixed as Megatron-LM mixes them.

Sample i is taken from the file that is furthest behind its share: d = argmax(w_d * max(i, 1) - n_d), where n_d counts
the samples taken from d so far; the first of equals. So every stretch of the run has the blend, without chance.
"""

# D token files, M samples

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from mcc.core.errors import UsageError
from mcc.data.indexed import index_path

# Megatron-LM makes this many times the samples of each file that its weight asks for.
_SPARE = 1.005
# With more files than this, numpy finds the largest faster than a loop does.
_FEW = 12

Item = TypeVar("Item", covariant=True)


class Samples(Protocol[Item]):
    """Samples by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> Item: ...


@dataclass(frozen=True)
class Blend:
    """Prefixes of token files and their weights, which sum to 1."""

    prefixes: tuple[str, ...]
    weights: tuple[float, ...]

    @staticmethod
    def parse(text: str) -> Blend:
        """From `PREFIX`, or from weights and prefixes in turn.

        >>> Blend.parse("3 wiki_text_document 1 books_text_document")
        Blend(prefixes=('wiki_text_document', 'books_text_document'), weights=(0.75, 0.25))

        Raises:
            UsageError: it is neither.
        """
        if _is_prefix(text):  # a path with spaces
            return Blend((text,), (1.0,))
        try:
            words = shlex.split(text)
        except ValueError as error:
            raise UsageError(f"data path {text!r}: {error}") from None
        if len(words) == 1:
            return Blend((words[0],), (1.0,))
        if not words or len(words) % 2:
            raise UsageError(
                f"data path {text!r} has {len(words)} words", "one prefix, or WEIGHT PREFIX WEIGHT PREFIX ..."
            )
        weights = [_weight(word, text) for word in words[::2]]
        total = 0.0
        for weight in weights:
            total += weight
        return Blend(tuple(words[1::2]), tuple(weight / total for weight in weights))

    def shares(self, num_samples: int) -> list[int]:
        """How many samples of each file a run of `num_samples` needs: all of them when it is alone.

        >>> Blend(("a", "b"), (0.75, 0.25)).shares(1000)
        [754, 252]
        """
        if len(self.prefixes) == 1:
            return [num_samples]
        return [math.ceil(num_samples * weight * _SPARE) for weight in self.weights]

    def __str__(self) -> str:
        pairs = zip(self.weights, self.prefixes, strict=True)
        alone = len(self.prefixes) == 1
        return self.prefixes[0] if alone else " ".join(f"{weight:g} {shlex.quote(prefix)}" for weight, prefix in pairs)


def _is_prefix(text: str) -> bool:
    try:
        return index_path(text).exists()
    except OSError:  # no name of a file: too long
        return False


def _weight(word: str, text: str) -> float:
    try:
        weight = float(word)
    except ValueError:
        weight = -1.0
    if not 0 < weight < math.inf:
        raise UsageError(f"data path {text!r}: {word!r} is not a weight above 0", "WEIGHT PREFIX WEIGHT PREFIX ...")
    return weight


def build_blend(weights: Sequence[float], num_samples: int) -> tuple[NDArray[np.integer], NDArray[np.int64]]:
    """(uint8[M] (uint16 for many files), int64[M]): which file sample i is of, and which sample of that file it is."""
    files = np.zeros(num_samples, dtype=np.uint8 if len(weights) <= 256 else np.uint16)
    numbers = np.zeros(num_samples, dtype=np.int64)
    chosen = _few(weights, num_samples) if len(weights) <= _FEW else _many(weights, num_samples)
    files[:] = chosen
    for d in range(len(weights)):
        mine = files == d
        numbers[mine] = np.arange(np.count_nonzero(mine))
    return files, numbers


def _few(weights: Sequence[float], num_samples: int) -> list[int]:
    counts = [0] * len(weights)
    rest = list(enumerate(weights))[1:]
    first = weights[0]
    chosen = [0] * num_samples
    for i in range(num_samples):
        place = i or 1
        best, top = 0, first * place - counts[0]
        for d, weight in rest:
            behind = weight * place - counts[d]
            if behind > top:
                best, top = d, behind
        chosen[i] = best
        counts[best] += 1
    return chosen


def _many(weights: Sequence[float], num_samples: int) -> list[int]:
    shares, counts = np.array(weights, dtype=np.float64), np.zeros(len(weights))
    chosen = [0] * num_samples
    for i in range(num_samples):
        best = int(np.argmax(shares * (i or 1) - counts))
        chosen[i] = best
        counts[best] += 1
    return chosen


class Blended(Generic[Item]):
    """The samples of several files as one sequence.

    Args:
        parts: the samples of each file, at least as many as the blend asks for.
        files, numbers: from `build_blend`.
    """

    def __init__(self, parts: Sequence[Samples[Item]], files: NDArray[np.integer], numbers: NDArray[np.int64]) -> None:
        self.parts, self.files, self.numbers = parts, files, numbers

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> Item:
        return self.parts[int(self.files[i])][int(self.numbers[i])]
