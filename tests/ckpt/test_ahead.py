"""Tensors read ahead of the one that is written."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from unittest import mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mcc.ckpt.ahead import ahead


def large(key: object) -> int:
    return 1 << 30


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_no_more_than_the_workers_are_held(workers: int) -> None:
    begun: list[int] = []

    def read(key: int) -> int:
        begun.append(key)
        return key * key

    for key, value in ahead(range(20), read, large, workers):
        assert value == key * key
        assert max(begun) <= key + workers
    assert sorted(begun) == list(range(20))


def test_the_next_is_read_while_one_is_written() -> None:
    second = threading.Event()

    def read(key: int) -> int:
        if key == 1:
            second.set()
        return key

    for key, _ in ahead(range(3), read, large):
        if key == 0:
            assert second.wait(60)


def test_small_ones_between_do_not_keep_the_next_large_one_waiting() -> None:
    million = 1_000_000
    sizes = [8 * million, million, 0, 9 * million, million, 0, 8 * million]
    begun = [threading.Event() for _ in sizes]

    def read(key: int) -> int:
        begun[key].set()
        return key

    def size(key: int) -> int:
        return sizes[key]

    held = 0
    for key, _ in ahead(range(len(sizes)), read, size):
        assert key != 0 or begun[3].wait(60)
        assert key != 3 or begun[6].wait(60)
        held = max(held, sum(size(n) for n in range(key + 1, len(sizes)) if begun[n].is_set()))
    assert 9 * million < held < (9 + 4) * million


def test_small_ones_are_bounded_too() -> None:
    begun: list[int] = []
    for key, _ in ahead(range(50), begun.append, lambda key: 500_000):
        assert len(begun) <= key + 1 + 2 * 4_000_000 // 500_000


class AtOnce(ThreadPoolExecutor):
    """What is asked for is done when it is asked for: no thread can be late."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(fn(*args, **kwargs))
        return done


@given(sizes=st.lists(st.sampled_from([5_000_000]) | st.integers(1, 300_000), max_size=300), workers=st.integers(1, 3))
@example(sizes=[300_000, 100_000, 7, *[5_000_000, 200_001, 3] * 60], workers=1)
def test_never_more_large_ones_than_workers(sizes: list[int], workers: int) -> None:
    begun: list[int] = []
    with mock.patch("mcc.ckpt.ahead.ThreadPoolExecutor", AtOnce):
        for key, _ in ahead(range(len(sizes)), begun.append, sizes.__getitem__, workers):
            waiting = [sizes[n] for n in range(key + 1, len(begun))]
            assert sum(size == 5_000_000 for size in waiting) <= workers
            assert sum(min(size, 4_000_000) for size in waiting) < (workers + 1) * 4_000_000


def test_errors_come_in_their_turn() -> None:
    seen = []
    with pytest.raises(ZeroDivisionError):
        for key, _ in ahead([1, 2, 0, 3], lambda key: 1 / key, large, workers=3):
            seen.append(key)
    assert seen == [1, 2]
