"""Read piece by piece with a cache, a model computes what it computes for whole sequences."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from mcc.models.base.axes import Axes
from mcc.models.base.cache import KeyValueCache
from mcc.models.base.config import ModelConfig
from mcc.models.base.family import families
from mcc.models.base.init import initialize
from mcc.models.base.transformer import Stage

CAUSAL = [name for name in families.names() if families.get(name).blueprint.causal]
SIZES = ModelConfig(
    num_layers=2, hidden_size=32, num_attention_heads=4, num_query_groups=2, seq_length=16, vocab_size=61,
    init_std=0.3, rotary_base=100.0,
)  # fmt: skip
CPU = torch.device("cpu")


def built(family: str) -> Stage:
    plugin = families.get(family)()
    stage = plugin.build(dataclasses.replace(SIZES, family=family), Axes(), range(2)).eval()
    initialize(stage, plugin, seed=1)
    return stage


def texts(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randint(0, 61, (length,), generator=generator).tolist() for length in lengths]


@torch.no_grad()
def read(stage: Stage, cache: KeyValueCache, rows: Sequence[Sequence[int]]) -> list[Tensor]:
    """Logits of every new token of each row; padding is a token that would change what it is seen by."""
    longest = max(map(len, rows))
    padded = torch.tensor([[*row, *[60] * (longest - len(row))] for row in rows])
    out = stage(padded, cache.read([len(row) for row in rows]).extras)
    assert isinstance(out, Tensor)
    return [out[i, : len(row)] for i, row in enumerate(rows)]


@torch.no_grad()
def whole(stage: Stage, row: Sequence[int]) -> Tensor:
    out = stage(torch.tensor([row]))
    assert isinstance(out, Tensor)
    return out[0]


@pytest.mark.parametrize("family", CAUSAL)
@pytest.mark.parametrize(
    "cuts",
    [
        ((16,), (16,), (16,)),  # all at once
        ((5, 1, 1, 1), (5, 1, 1, 1), (5, 1, 1, 1)),  # rows of one length, token by token
        ((7, 9), (7, 9), (7, 9)),  # and piece by piece
        ((3, 1, 1, 1), (9, 1, 1, 1), (13, 1, 1, 1)),  # padded prompts, token by token, up to the last position
        ((2, 5, 1), (9, 1, 6), (1, 2, 3)),  # padded throughout
    ],
    ids=str,
)
def test_pieces_equal_the_whole(family: str, cuts: tuple[tuple[int, ...], ...]) -> None:
    stage = built(family)
    rows = texts(*map(sum, cuts))
    cache = KeyValueCache(3, 16, CPU)
    ends = [[0, *itertools.accumulate(cut)] for cut in cuts]
    pieces = [
        read(stage, cache, [row[end[i] : end[i + 1]] for row, end in zip(rows, ends, strict=True)])
        for i in range(len(cuts[0]))
    ]
    for row, found in zip(rows, zip(*pieces, strict=True), strict=True):
        torch.testing.assert_close(torch.cat(found), whole(stage, row), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", CAUSAL)
def test_rows_are_dropped_repeated_and_reordered(family: str) -> None:
    stage = built(family)
    first, second, third = texts(4, 7, 2)
    cache = KeyValueCache(3, 16, CPU)
    read(stage, cache, [first, second, third])
    cache.keep([2, 0, 0])
    assert cache.lengths == [2, 4, 4]
    more = texts(3, 1, 2)
    for row, new, found in zip((third, first, first), more, read(stage, cache, more), strict=True):
        torch.testing.assert_close(found, whole(stage, row + new)[len(row) :], atol=1e-5, rtol=1e-5)


def test_room_is_made_once() -> None:
    """No token makes the cache anew, and what a layer keeps is no larger than what it was made for."""
    stage, cache = built("llama"), KeyValueCache(2, 12, CPU)
    read(stage, cache, texts(4, 6))
    kept = dict(cache._kept)
    assert len(kept) == 2 and all(x.shape == (2, 2, 12, 8) for pair in kept.values() for x in pair)
    for _ in range(6):
        read(stage, cache, [[1], [2]])
    assert all(x is y for key in kept for x, y in zip(kept[key], cache._kept[key], strict=True))


def test_more_than_the_room_is_our_own_mistake() -> None:
    with pytest.raises(AssertionError, match="13 tokens in a cache for 12"):
        KeyValueCache(2, 12, CPU).read([13, 1])
