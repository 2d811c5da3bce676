"""Whether the error that feedback carries on is orthogonal to what it meets (Optimus-CC, arXiv 2301.09830, figure 11).

A weight's gradient is a sum over micro-batches of activation times gradient, sum_i a_i^T g_i. Where g_i loses e_i,
which is added to the next gradient that is sent, the sum is off by

    sum_i (a_i - a_next(i))^T e_i

up to the last error: by little where e_i and a_i - a_next(i) have no direction in common and means near zero.

a_i: what came forward over the boundary for micro-batch i; e_i: what its gradient, sent back over it, lost, with the
error that it took along. Both of one shape; the cosine is over all elements.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class _Kept:
    step: int
    microbatch: int
    error: Tensor
    activation: Tensor


class Orthogonality:
    """The measurements at one boundary, at the stage that sends gradients back over it.

    Args:
        boundary: the stage before it.
        lazy: the error waits for the next gradient that is compressed.
    """

    def __init__(self, boundary: int, lazy: bool) -> None:
        self.boundary, self.lazy = boundary, lazy
        self._activations: dict[int, Tensor] = {}
        self._kept: _Kept | None = None
        self._found: list[dict[str, Any]] = []

    def received(self, microbatch: int, activation: Tensor) -> None:
        """`activation` came forward for a micro-batch."""
        self._activations[microbatch] = activation.detach()

    def sent(self, step: int, microbatch: int, error: Tensor | None) -> None:
        """A micro-batch's gradient was sent back: compressed, so that `error` is left, or as it is (None)."""
        activation, kept = self._activations.pop(microbatch), self._kept
        if error is None and self.lazy:
            return
        if kept is not None:
            self._found.append(
                {
                    "step": kept.step + 1,
                    "boundary": self.boundary,
                    "microbatch": kept.microbatch,
                    "next_step": step + 1,
                    "next_microbatch": microbatch,
                    **measured(kept.error, kept.activation, activation),
                }
            )
        self._kept = None if error is None else _Kept(step, microbatch, error, activation)

    def take(self) -> list[dict[str, Any]]:
        """What was measured since the last call."""
        found, self._found = self._found, []
        return found


def measured(error: Tensor, activation: Tensor, following: Tensor) -> dict[str, float | None]:
    """`cosine` of the error and the activations' difference, and the means of both; no cosine with a zero.

    >>> import torch
    >>> measured(torch.tensor([3.0, 4.0]), torch.tensor([2.0, 5.0]), torch.tensor([1.0, 5.0]))
    {'cosine': 0.6, 'mean_error': 3.5, 'mean_difference': 0.5}
    """
    e = error.double().reshape(-1)
    d = (activation.double() - following.double()).reshape(-1).to(e.device)
    length = float(e.norm() * d.norm())
    return {
        "cosine": float(e @ d) / length if length else None,
        "mean_error": float(e.mean()),
        "mean_difference": float(d.mean()),
    }
