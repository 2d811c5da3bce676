"""Work in processes: in order, no further ahead than said, and clear about a death."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from mcc.core.errors import MccError
from mcc.data.base.workers import ordered_map


def square(x: int) -> int:
    if x == -1:
        os.kill(os.getpid(), signal.SIGKILL)
    if x == -2:
        raise MccError("bad item", "a hint")
    return x * x


def make() -> Callable[[int], int]:
    return square


@pytest.mark.parametrize("workers", [1, 2])
def test_order(workers: int) -> None:
    assert list(ordered_map(make, range(50), workers)) == [i * i for i in range(50)]


def test_reads_no_further_than_two_items_a_worker() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for taken in range(1, 101):  # noqa: UP028 - the loop's variable is what is watched
            yield taken

    results = ordered_map(make, items(), 2)
    next(results)
    assert taken == 5
    results.close()  # type: ignore[attr-defined]


def test_errors_keep_their_hint_and_deaths_are_told() -> None:
    with pytest.raises(MccError) as caught:
        list(ordered_map(make, [1, -2], 2))
    assert (caught.value.what, caught.value.hint) == ("bad item", "a hint")
    with pytest.raises(MccError, match="a worker process died"):
        list(ordered_map(partial(make), [1, -1, 2], 2))


def bad(x: int) -> int:
    """The other process meets the first item late, this one a later item at once."""
    if x == 0:
        time.sleep(0.3)
    raise MccError(f"bad item {x}")


def make_bad() -> Callable[[int], int]:
    return bad


def test_the_first_bad_item_is_told_of_whoever_met_a_later_one_before() -> None:
    with pytest.raises(MccError, match=r"bad item 0$"):
        list(ordered_map(make_bad, range(9), 2))
