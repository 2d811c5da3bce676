"""Ranks number the attempts of a run by themselves, over a store that remembers those before."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch.distributed as dist

from mcc.core.errors import MccError
from mcc.train.attempt import agree

SOON = timedelta(seconds=20)


def attempt(store: dist.Store, counted: list[int]) -> list[int]:
    """What the ranks of one attempt agree on, when their launchers say `counted`."""
    with ThreadPoolExecutor(len(counted)) as pool:
        told = [pool.submit(agree, store, rank, len(counted), SOON, n) for rank, n in enumerate(counted)]
        return [future.result() for future in told]


def test_ranks_agree_whatever_their_launchers_count() -> None:
    store = dist.HashStore()
    assert attempt(store, [0, 0, 0]) == [0, 0, 0]
    assert attempt(store, [0, 1, 0]) == [1, 1, 1]  # the agent of rank 1 saw the failure, the others did not
    assert attempt(store, [0, 1, 1]) == [2, 2, 2]


def test_what_dead_ranks_left_is_not_taken_for_living_ones() -> None:
    """Rank 1 of the first attempt said hello, and died: rank 0 does not go on without the second's."""
    store = dist.HashStore()
    dist.PrefixStore("mcc/attempt", store).set("hello/1", "dead")
    with pytest.raises(MccError, match="rank 1 of 2 did not come"):
        agree(store, 0, 2, timedelta(seconds=0.2))
    assert attempt(store, [0, 1]) == [1, 1]


def test_a_count_of_the_launcher_is_kept() -> None:
    assert attempt(dist.HashStore(), [3, 3]) == [3, 3]
    assert agree(dist.HashStore(), 0, 1, SOON) == 0
