"""A model that reads texts on: each pass takes the new tokens of some rows, keys and values of the others are kept.

B rows   T new tokens   D hidden size   V vocabulary, without padding   K numbers that a choice is
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mcc.eval.place import Place
from mcc.models.base.cache import KeyValueCache
from mcc.models.base.transformer import Stage

# Logits [B, V] in float32 to what is chosen of them, numbers [B', K] in float64.
Choose = Callable[[Tensor], Tensor]


class Reader:
    """Reads rows of tokens with a model on the device that it lies on.

    On several ranks all of a replica do the same at the same time, each with its part of the model.

    Args:
        model: this rank's part of it, in eval mode.
        place: this rank among others; alone, it has the whole model.
    """

    def __init__(self, model: Stage, place: Place | None = None) -> None:
        self.model, self.place = model.eval(), place or Place()
        parameter = next(model.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        self.cache = KeyValueCache(0, 0, self.device)

    def start(self, rows: int, capacity: int) -> None:
        """Forget what was read, and make room for `rows` rows of `capacity` tokens."""
        self.cache = KeyValueCache(rows, capacity, self.device)

    def keep(self, rows: Sequence[int]) -> None:
        """Read on with these rows alone, in this order; a row may be taken more than once."""
        self.cache.keep(rows)

    @torch.inference_mode()
    def read(self, rows: Sequence[Sequence[int]], choose: Choose, shape: tuple[int, int]) -> list[list[float]]:
        """What `choose` makes of the logits after the last of each row's new tokens; the same on every rank.

        Args:
            rows: the new tokens of each row, at least one each.
            choose: see `Choose`; runs on the last stage's first shard.
            shape: of what it gives.
        """
        counts = [len(row) for row in rows]
        longest, place, model = max(counts), self.place, self.model
        extras = self.cache.read(counts).extras
        if model.first:
            x = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=self.device)
        else:
            size = (len(rows), longest, model.config.hidden_size)
            x = place.receive(size, model.compute_dtype or self.dtype)
        x = model.hidden(x, extras)
        chosen = None
        if model.last:
            last_BD = x[torch.arange(len(rows)), torch.tensor(counts) - 1]
            logits = model.head(last_BD)
            assert isinstance(logits, Tensor)
            logits = place.whole_vocabulary(logits)[:, : model.config.vocab_size].float()
            chosen = choose(logits) if place.axes.rank == 0 else None
        else:
            place.send(x)[0].wait()
        found: list[list[float]] = place.agree(chosen, shape).tolist()
        return found
