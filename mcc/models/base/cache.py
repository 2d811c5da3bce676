"""Keys and values of the tokens that a model has read, so that it reads only new ones.

    B rows   T new tokens   S slots of a row   np heads here   ng key/value heads here   hd channels of a head

A row's token at position p is in slot p, whatever the other rows' lengths: what pads a batch stands on the right, where
causal attention never sees it, and is written over by the tokens that follow.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mcc.models.base.extras import Extras


class KeyValueCache:
    """The keys and values of every layer of a stage, for some rows at a time. A layer's room is made once.

    Args:
        rows: sequences.
        capacity: most tokens that each will have.
        device: where the model is.

    Attributes:
        lengths: tokens that each row has.
    """

    def __init__(self, rows: int, capacity: int, device: torch.device) -> None:
        self.lengths = [0] * rows
        self.capacity, self.device = capacity, device
        self._kept: dict[str, tuple[Tensor, Tensor]] = {}

    def read(self, counts: Sequence[int]) -> Reading:
        """The pass in which each row b reads its next `counts[b]` tokens; they count as read from here on."""
        starts, self.lengths = self.lengths, [old + new for old, new in zip(self.lengths, counts, strict=True)]
        assert max(self.lengths) <= self.capacity, f"{max(self.lengths)} tokens in a cache for {self.capacity}"
        return Reading(self, starts, counts)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone, in this order; a row may be taken more than once."""
        if list(rows) == list(range(len(self.lengths))):
            return
        self.lengths = [self.lengths[row] for row in rows]
        index, end = torch.tensor(rows, dtype=torch.int64, device=self.device), max(self.lengths, default=0)
        for key, (keys, values) in self._kept.items():
            self._kept[key] = self._taken(keys, index, end), self._taken(values, index, end)

    def slots(self, key: str, k: Tensor) -> tuple[Tensor, Tensor]:
        """The keys and values [B, ng, S, hd] of the attention at `key`, of the kind of its new keys `k`."""
        if key not in self._kept:
            B, ng, _, hd = k.shape
            # Zeros: a masked weight is 0, and 0 times whatever memory held before need not be.
            keys, values = (k.new_zeros(B, ng, self.capacity, hd) for _ in range(2))
            self._kept[key] = keys, values
        return self._kept[key]

    def _taken(self, kept: Tensor, index: Tensor, end: int) -> Tensor:
        taken = kept.new_zeros(len(index), *kept.shape[1:])
        taken[:, :, :end] = kept[:, :, :end].index_select(0, index)
        return taken


class Reading:
    """One pass over new tokens [B, T], row b's `counts[b]` and padding on its right.

    Attributes:
        positions: of the new tokens, [T] where all rows are equally long so far, else [B, T].
    """

    def __init__(self, cache: KeyValueCache, starts: Sequence[int], counts: Sequence[int]) -> None:
        self.cache = cache
        self._start, self._even = min(starts), min(starts) == max(starts)
        T, device = max(counts), cache.device
        self._end = max(cache.lengths) if not self._even else self._start + T
        steps = torch.arange(T, device=device)
        if self._even:
            self.positions = steps + self._start
        else:
            first, count = (torch.tensor(numbers, device=device)[:, None] for numbers in (starts, counts))
            # What pads a row repeats its last position: a learned embedding may have no further one.
            self.positions = first + torch.minimum(steps, count - 1)
            self._where = torch.nonzero(steps < count, as_tuple=True)  # (rows, steps) of what is no padding
        self._first_tokens = self._even and self._start == 0
        self._mask: Tensor | None = None
        if not self._first_tokens and not (self._even and T == 1):
            seen = torch.arange(self._end, device=device) <= self.positions.unsqueeze(-1)
            self._mask = seen.view(-1, 1, T, self._end)

    @property
    def extras(self) -> Extras:
        """What goes with the tokens through the model."""
        return Extras(positions=self.positions, reading=self)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key: str) -> Tensor:
        """Softmax attention of the new tokens over their row's tokens so far; keeps their keys and values.

        Args:
            q: [B, np, T, hd]. k, v: [B, ng, T, hd]; query head h reads key/value head h // (np / ng).
            key: the place in the model.

        Returns:
            [B, np, T, hd].
        """
        keys, values = self.cache.slots(key, k)
        T = q.shape[2]
        if self._even:
            keys[:, :, self._start : self._end] = k
            values[:, :, self._start : self._end] = v
        else:
            rows, steps = self._where
            slots = self.positions[rows, steps]
            keys[rows, :, slots] = k[rows, :, steps]
            values[rows, :, slots] = v[rows, :, steps]
        if self._first_tokens:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])
        k, v = keys[:, :, : self._end], values[:, :, : self._end]
        if T == 1:  # the heads that share keys are queries of one head: no kernel copies keys for each of them
            mixed = F.scaled_dot_product_attention(q.reshape(*k.shape[:2], -1, q.shape[3]), k, v, attn_mask=self._mask)
            return mixed.reshape(q.shape)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self._mask, enable_gqa=q.shape[1] != k.shape[1])
