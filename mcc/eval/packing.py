"""Requests that begin alike as one row of tokens: what they share is computed once.

    shared | branch 1 | branch 2 | ...

A token of a branch sees what is shared and its own branch, at the position that it would have alone, so each request's
logits are its own. (The same mask verifies trees of guesses in SpecInfer, Miao et al., arXiv 2305.09781, section 4.2.)

    B rows   T tokens of the longest row
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mcc.models.base.extras import NO_EXTRAS, Extras

# Attention looks at all pairs of a row's tokens, a mask's ones or not: rows do not grow beyond this by sharing.
_MOST_TOKENS = 1024
# A branch joins when it shares at least this part of its tokens.
_LEAST_SHARED = 0.2
_PADDING = -1


@dataclass(frozen=True)
class Span:
    """What the model reads, and the tokens that its last positions should predict.

    Args:
        inputs: token ids, at most the model's context length.
        targets: `targets[-1]` follows `inputs[-1]`; at most as many as `inputs`.
    """

    inputs: list[int]
    targets: list[int]


@dataclass(frozen=True)
class Row:
    """Spans that begin alike.

    Args:
        owners: index of each span, as the caller counts.
        spans: at least one; more share their first `shared` inputs, of which there is at least one.
        shared: inputs that all have; all of a single span's.
    """

    owners: tuple[int, ...]
    spans: tuple[Span, ...]
    shared: int

    @property
    def length(self) -> int:
        """Tokens of the row."""
        return self.shared + sum(len(span.inputs) - self.shared for span in self.spans)

    @property
    def tokens(self) -> list[int]:
        """Token ids, what is shared first."""
        rest = [token for span in self.spans for token in span.inputs[self.shared :]]
        return self.spans[0].inputs[: self.shared] + rest

    def places(self) -> Iterator[tuple[int, int]]:
        """(branch, position) of each token; branch 0 is what is shared."""
        yield from ((0, at) for at in range(self.shared))
        for branch, span in enumerate(self.spans, 1):
            yield from ((branch, at) for at in range(self.shared, len(span.inputs)))

    def reads(self) -> Iterator[int]:
        """Where in the row each target of each span, in order, is predicted."""
        start = self.shared
        for span in self.spans:
            for at in range(len(span.inputs) - len(span.targets), len(span.inputs)):
                yield at if at < self.shared else start + at - self.shared
            start += len(span.inputs) - self.shared


def pack(spans: Sequence[Span], most: int, sharing: bool = True) -> list[Row]:
    """Every span in a row, with others where that saves tokens.

    >>> rows = pack([Span([1, 2, 3], [9]), Span([7, 8], [9]), Span([1, 2, 4, 5], [9])], most=100)
    >>> [(row.owners, row.tokens) for row in rows]
    [((0, 2), [1, 2, 3, 4, 5]), ((1,), [7, 8])]

    Args:
        spans: to be scored.
        most: tokens of a row of several spans.
        sharing: False: each span has a row of its own.
    """
    if not sharing:
        return [Row((i,), (span,), len(span.inputs)) for i, span in enumerate(spans)]
    most = min(most, _MOST_TOKENS)
    rows: list[Row] = []
    members: list[int] = []
    shared = total = 0

    def close() -> None:
        if members:
            rows.append(Row(tuple(members), tuple(spans[i] for i in members), shared))

    for i in sorted(range(len(spans)), key=lambda i: spans[i].inputs):  # those that begin alike are neighbours
        inputs = spans[i].inputs
        if members:
            common = min(shared, _common(spans[members[-1]].inputs, inputs))
            length = total + len(inputs) - len(members) * common
            saves = len(members) * common > (len(members) - 1) * shared
            if saves and common >= _LEAST_SHARED * len(inputs) and length <= most:
                members.append(i)
                shared, total = common, total + len(inputs)
                continue
        close()
        members, shared, total = [i], len(inputs), len(inputs)
    close()
    return rows


def arrange(rows: Sequence[Row], device: torch.device) -> tuple[Tensor, Extras]:
    """Tokens [B, T] of the rows, padded on the right, and who sees whom where rows have branches."""
    longest = max(row.length for row in rows)
    padded = [row.tokens + [0] * (longest - row.length) for row in rows]
    tokens_BT = torch.tensor(padded, device=device)
    if all(len(row.spans) == 1 for row in rows):
        return tokens_BT, NO_EXTRAS  # causal, so that padding on the right is seen by nobody
    places = [[*row.places(), *[(_PADDING, 0)] * (longest - row.length)] for row in rows]
    branch_BT, positions_BT = torch.tensor(places, device=device).unbind(-1)
    earlier = torch.ones(longest, longest, dtype=torch.bool, device=device).tril()
    common = branch_BT[:, None, :] == 0
    seen = earlier & (common | (branch_BT[:, None, :] == branch_BT[:, :, None]))
    return tokens_BT, Extras(positions=positions_BT.contiguous(), reading=_Branches(seen.unsqueeze(1)))


class _Branches:
    """Attention by a mask: seen[B, 1, T, T] of bool, which tokens (last dim) each token sees."""

    def __init__(self, seen: Tensor) -> None:
        self.seen = seen

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key: str) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.seen, enable_gqa=q.shape[1] != k.shape[1])


def _common(a: list[int], b: list[int]) -> int:
    """How many tokens two spans begin with alike.

    >>> _common([1, 2, 3], [1, 2, 4, 5])
    2
    """
    for at, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return at
    return min(len(a), len(b))
