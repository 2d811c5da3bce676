"""The parallel axes as a model sees them. Here each has a single rank; `mcc.train.parallel` has the rest.

B batch   T tokens here   D hidden size   np heads here   ng key/value heads here   hd channels of a head
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from mcc.models.base.extras import Randomness

if TYPE_CHECKING:
    from mcc.models.base.bottleneck import Bottleneck
from mcc.models.base.plain_attention import attend_with_dropout, kept_weights


class Axes:
    """Where a layer enters and leaves its sharded region (Megatron-LM's f and g, arXiv 1909.08053), and attention.

    `key` names the place in the model; each place that compresses keeps its own codec state under it.

    Attributes:
        size, rank: of tensor parallelism.
        sequence: whether the hidden states between the sharded regions are sharded over the tokens too (Megatron-LM's
            sequence parallelism, arXiv 2205.05198): `enter` then gathers tokens and `leave` scatters them.
        context_size, context_rank: of context parallelism.
    """

    size: int = 1
    rank: int = 0
    sequence: bool = False
    context_size: int = 1
    context_rank: int = 0

    @property
    def token_shard(self) -> int:
        """Which shard of the tokens the hidden states between the sharded regions are."""
        return self.context_rank * self.size + (self.rank if self.sequence else 0)

    @property
    def head_shard(self) -> int:
        """Which shard of heads and tokens the attention weights are."""
        return self.context_rank * self.size + self.rank

    def enter(self, x: Tensor, key: str) -> Tensor:
        """f: the identity forward, the sum over ranks backward. x is replicated."""
        return x

    def leave(self, x: Tensor, key: str) -> Tensor:
        """g: the sum over ranks forward, the identity backward. x is this rank's partial sum."""
        return x

    def leave_through(self, x: Tensor, codec: Bottleneck, key: str) -> Tensor:
        """`leave`, what is summed encoded by a codec that is trained with the model."""
        return codec.decode(self.leave(codec.encode(x), key))

    def cross(self, x: Tensor, codec: Bottleneck) -> Tensor:
        """x through a trained codec between two layers, or through the end of it that is here."""
        out: Tensor = codec(x)
        return out

    def sum_vocab(self, x: Tensor) -> Tensor:
        """g for the vocabulary-parallel embedding: never compressed (most of it is zeros)."""
        return x

    def enter_vocab(self, x: Tensor) -> Tensor:
        """f for the vocabulary-parallel output layer: never compressed."""
        return x

    def own_tokens(self, x: Tensor) -> Tensor:
        """With `sequence`, this rank's tokens of x[B, T, ...], which all ranks computed alike; else x."""
        return x

    def all_tokens(self, x: Tensor) -> Tensor:
        """With `sequence`, x[B, T/P, D] of all ranks as [B, T, D], for what every rank computes alike; else x."""
        return x

    def positions(self, tokens: int, device: torch.device) -> Tensor:
        """The global positions of this rank's `tokens` tokens: context parallelism deals them out."""
        return torch.arange(tokens, device=device)

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        causal: bool,
        padding: Tensor | None = None,
        dropout: float = 0.0,
        key: str = "",
    ) -> Tensor:
        """Softmax attention of all tokens, those of other context-parallel ranks included.

        Args:
            q: [B, np, T, hd]. k, v: [B, ng, T, hd]; query head h reads key/value head h // (np / ng).
            causal: a token sees itself and those before it.
            padding: [B, T] of bool, True where there is a token to be seen; None: everywhere.
            dropout: probability that an attention weight is dropped, from torch's current random state.
            key: the place in the model.

        Returns:
            [B, np, T, hd].
        """
        mask = None if padding is None else _seen(q, causal, padding)
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal and mask is None,
            enable_gqa=q.shape[1] != k.shape[1],
        )  # fmt: skip

    def attend_by_place(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        causal: bool,
        padding: Tensor | None,
        dropout: float,
        random: Randomness,
        key: str,
    ) -> Tensor:
        """`attend` with the dropout that `random` has for the place `key`.

        Fused kernels draw for a shard of heads at a time. Where there is none, every head draws for itself, so that
        tensor parallelism changes no number.
        """
        if q.device.type == "cpu" and self.context_size == 1:
            keep = kept_weights(q, k, dropout, random, key, self.rank)
            return attend_with_dropout(q, k, v, _seen(q, causal, padding), dropout, keep)
        with random.drawing(key, q.device, self.head_shard):
            return self.attend(q, k, v, causal, padding, dropout, key)

    def sum_(self, x: Tensor) -> Tensor:
        """The sum over ranks, in place, outside autograd (cross-entropy's statistics)."""
        return x

    def max_(self, x: Tensor) -> Tensor:
        """The maximum over ranks, in place, outside autograd."""
        return x


def _seen(q: Tensor, causal: bool, padding: Tensor | None) -> Tensor | None:
    """Which tokens see which: bool, broadcast to [B, np, T, T]; None: all see all."""
    mask = None if padding is None else padding[:, None, None, :]
    if not causal:
        return mask
    earlier = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device).tril()
    return earlier if mask is None else mask & earlier
