"""Tensors read ahead of the one that is written."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


def ahead(
    keys: Collection[Key], read: Callable[[Key], Value], size: Callable[[Key], int], workers: int = 1
) -> Iterator[tuple[Key, Value]]:
    """Every key with what `read` gives for it, in order; `workers` threads read the next ones meanwhile.

    Besides the value that was yielded, no more are held than `workers` of the largest would take, and a quarter of it
    for small ones: where large and small ones take turns, the next large one is read while this one is used.

    Args:
        keys: what to read.
        read: called once a key.
        size: how much the value of a key will take.
        workers: threads. 0: each is read when its turn comes.

    >>> list(ahead("ab", str.upper, len, workers=2))
    [('a', 'A'), ('b', 'B')]
    """
    if workers < 1:
        for key in keys:
            yield key, read(key)
        return
    largest = max(map(size, keys), default=0)
    room = workers * largest + largest // 4
    with ThreadPoolExecutor(workers, thread_name_prefix="read") as pool:
        waiting: deque[tuple[Key, Future[Value]]] = deque()
        behind = 0  # the first of those waiting
        try:
            for key in keys:
                while waiting and behind + size(key) > room:
                    first, value = waiting.popleft()
                    behind -= size(waiting[0][0]) if waiting else 0
                    yield first, value.result()
                    del value
                behind += size(key) if waiting else 0
                waiting.append((key, pool.submit(read, key)))
            while waiting:
                first, value = waiting.popleft()
                yield first, value.result()
                del value
        finally:
            for _, left in waiting:
                left.cancel()
