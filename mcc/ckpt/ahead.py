"""Tensors read ahead of the one that is written."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_LARGE = 4_000_000  # bytes

Key = TypeVar("Key")
Value = TypeVar("Value")


def ahead(
    keys: Collection[Key], read: Callable[[Key], Value], size: Callable[[Key], int], workers: int = 1
) -> Iterator[tuple[Key, Value]]:
    """Every key with what `read` gives for it, in order; `workers` threads read the next ones meanwhile.

    Besides the value that was yielded fewer than `workers` + 1 are held, where one below 4 MB counts as its share of
    that: where large and small ones take turns, the next large one is read while this one is used.

    Args:
        keys: what to read.
        read: called once a key.
        size: bytes that the value of a key will take.
        workers: threads. 0: each is read when its turn comes.

    >>> list(ahead("ab", str.upper, len, workers=2))
    [('a', 'A'), ('b', 'B')]
    """
    if workers < 1:
        for key in keys:
            yield key, read(key)
        return

    def cost(key: Key) -> int:
        return min(size(key), _LARGE)

    room = (workers + 1) * _LARGE
    with ThreadPoolExecutor(workers, thread_name_prefix="read") as pool:
        waiting: deque[tuple[Key, Future[Value]]] = deque()
        behind = 0  # the first of those waiting
        try:
            for key in keys:
                while waiting and behind + cost(key) >= room:
                    first, value = waiting.popleft()
                    behind -= cost(waiting[0][0]) if waiting else 0
                    yield first, value.result()
                    del value
                behind += cost(key) if waiting else 0
                waiting.append((key, pool.submit(read, key)))
            while waiting:
                first, value = waiting.popleft()
                yield first, value.result()
                del value
        finally:
            for _, left in waiting:
                left.cancel()
