"""Tensors read ahead of the one that is written."""

from __future__ import annotations

import threading

import pytest

from mcc.ckpt.ahead import ahead


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_no_more_than_the_workers_are_held(workers: int) -> None:
    begun: list[int] = []

    def read(key: int) -> int:
        begun.append(key)
        return key * key

    for key, value in ahead(range(20), read, workers):
        assert value == key * key
        assert max(begun) <= key + workers
    assert sorted(begun) == list(range(20))


def test_the_next_is_read_while_one_is_written() -> None:
    second = threading.Event()

    def read(key: int) -> int:
        if key == 1:
            second.set()
        return key

    for key, _ in ahead(range(3), read):
        if key == 0:
            assert second.wait(60)


def test_errors_come_in_their_turn() -> None:
    seen = []
    with pytest.raises(ZeroDivisionError):
        for key, _ in ahead([1, 2, 0, 3], lambda key: 1 / key, workers=3):
            seen.append(key)
    assert seen == [1, 2]
