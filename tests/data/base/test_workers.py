"""Work in processes: in order, no further ahead than said, and clear about a death."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from mcc.core.errors import MccError
from mcc.data.base.workers import ordered_map


def square(x: int) -> int:
    if x == -1:
        if multiprocessing.parent_process() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.01)
    if x == -2:
        raise MccError("bad item", "a hint")
    return x * x


def make() -> Callable[[int], int]:
    return square


@pytest.mark.parametrize("workers", [1, 2])
def test_order(workers: int) -> None:
    assert list(ordered_map(make, range(50), workers)) == [i * i for i in range(50)]


def test_reads_no_further_than_a_few_items_a_worker() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for taken in range(1, 101):  # noqa: UP028 - the loop's variable is what is watched
            yield taken

    results = ordered_map(make, items(), 2)
    next(results)
    assert taken <= 2 * 8 + 6  # results that wait, and what is given out or looked at before one is waited for
    results.close()  # type: ignore[attr-defined]


def test_errors_keep_their_hint_and_deaths_are_told() -> None:
    with pytest.raises(MccError) as caught:
        list(ordered_map(make, [1, -2], 2))
    assert (caught.value.what, caught.value.hint) == ("bad item", "a hint")
    with pytest.raises(MccError, match="a worker process died"):
        list(ordered_map(partial(make), [1, *[-1] * 500], 2))


def bad(first: Path, x: int) -> int:
    """The other process meets its first item late; this one then meets a later one at once."""
    if multiprocessing.parent_process() is not None:
        if not first.exists():
            first.write_text(str(x))
        time.sleep(0.5)
        raise MccError(f"bad item {x}")
    time.sleep(0.01)
    if first.exists():
        raise MccError(f"bad item {x}")
    return x


def make_bad(first: Path) -> Callable[[int], int]:
    return partial(bad, first)


def test_the_first_bad_item_is_told_of_whoever_met_a_later_one_before(tmp_path: Path) -> None:
    first = tmp_path / "first"
    with pytest.raises(MccError) as caught:
        list(ordered_map(partial(make_bad, first), range(10_000), 2))
    assert caught.value.what == f"bad item {first.read_text()}"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bad_item_is_told_of_before_those_behind_it_that_cannot_be_read(workers: int) -> None:
    def items(count: int) -> Iterator[int]:
        yield from [1] * count
        yield -2
        yield 1
        raise MccError("cut off")

    for count in (0, 1, 20):
        with pytest.raises(MccError, match="bad item"):
            list(ordered_map(make, items(count), workers))
