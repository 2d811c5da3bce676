"""Context parallelism: which tokens of a sample a rank holds.

    N context-parallel ranks   T tokens of a sample   T/N of them on each rank

A bidirectional model deals contiguous parts, rank r the r-th. A causal one deals 2N chunks zig-zag, rank r the chunks r
and 2N-1-r: early tokens look at little and late ones at much, and so every rank computes as much as every other
(Brandon et al., Striped Attention, arXiv 2311.09431, balance by interleaving; the pairing is that of Llama 3, arXiv
2407.21783, section 3.3.2).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mcc.core.errors import UsageError


@dataclass(frozen=True)
class Sight:
    """What the queries of one rank see of the keys of another: slices of their tokens.

    `causal`: the slices are the same tokens, and a query sees itself and those before it; else each sees all.
    """

    queries: slice
    keys: slice
    causal: bool


@dataclass(frozen=True)
class Dealt:
    """The share of one context-parallel rank.

    Attributes:
        size, rank: of context parallelism.
        zigzag: whether the tokens are dealt zig-zag.
    """

    size: int = 1
    rank: int = 0
    zigzag: bool = False

    def chunks(self, rank: int) -> tuple[int, ...]:
        """The chunks that `rank` holds, in order.

        >>> [Dealt(4, zigzag=True).chunks(rank) for rank in range(4)]
        [(0, 7), (1, 6), (2, 5), (3, 4)]
        """
        return (rank, 2 * self.size - 1 - rank) if self.zigzag else (rank,)

    def positions(self, tokens: int, device: torch.device | str = "cpu") -> Tensor:
        """The positions in the sample of this rank's `tokens` tokens: [tokens] of int64.

        >>> Dealt(2, 0, zigzag=True).positions(4).tolist(), Dealt(2, 1, zigzag=True).positions(4).tolist()
        ([0, 1, 6, 7], [2, 3, 4, 5])
        """
        chunks = self.chunks(self.rank)
        width = tokens // len(chunks)
        return torch.cat([torch.arange(chunk * width, (chunk + 1) * width, device=device) for chunk in chunks])

    def own(self, whole: Tensor, dim: int = -1) -> Tensor:
        """This rank's tokens of a tensor that has all tokens in `dim`."""
        if self.size == 1:
            return whole
        count = whole.shape[dim] // self.size
        return whole.index_select(dim, self.positions(count, whole.device))

    def sight(self, source: int, tokens: int, causal: bool) -> Sight | None:
        """What this rank's queries see of the keys that rank `source` holds; None: nothing.

        Args:
            source: a context-parallel rank.
            tokens: how many tokens each rank holds.
            causal: whether a token sees itself and those before it; otherwise it sees all.
        """
        every, half = slice(0, tokens), tokens // 2
        if not causal or source == self.rank:
            return Sight(every, every, causal)
        if not self.zigzag:
            return Sight(every, every, False) if source < self.rank else None
        if source < self.rank:  # its early chunk is before both of ours, its late one after both
            return Sight(every, slice(0, half), False)
        return Sight(slice(half, tokens), every, False)  # both of its chunks lie between ours


def require_cp(seq_length: int, cp: int, zigzag: bool, parts: int = 1) -> None:
    """Refuse a context parallelism that would cut the sequence unevenly.

    Args:
        seq_length: tokens of a sample.
        cp: context-parallel ranks. zigzag: see `Dealt`.
        parts: tensor-parallel ranks that share a rank's tokens (sequence parallelism), or 1.

    Raises:
        UsageError: the sequence does not divide.
    """
    chunks = 2 * cp if zigzag and cp > 1 else cp
    if seq_length % chunks:
        why = f"2*cp = 2*{cp} = {chunks}" if chunks != cp else f"cp = {cp}"
        hint = "a causal model deals two chunks to each rank, an early and a late one" if chunks != cp else None
        raise UsageError(f"seq_length = {seq_length} is not a multiple of {why}", hint)
    if seq_length // cp % parts:
        raise UsageError(
            f"sequence_parallel: seq_length/cp = {seq_length}/{cp} = {seq_length // cp} tokens "
            f"are not a multiple of tp = {parts}"
        )
