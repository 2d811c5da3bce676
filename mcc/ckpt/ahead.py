"""Tensors read ahead of the one that is written."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


def ahead(keys: Iterable[Key], read: Callable[[Key], Value], workers: int = 1) -> Iterator[tuple[Key, Value]]:
    """Every key with what `read` gives for it, in order; `workers` threads read the next ones meanwhile.

    No more than `workers` values are held besides the one that was yielded. 0: each is read when its turn comes.

    >>> list(ahead("ab", str.upper, workers=2))
    [('a', 'A'), ('b', 'B')]
    """
    if workers < 1:
        for key in keys:
            yield key, read(key)
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="read") as pool:
        waiting: deque[tuple[Key, Future[Value]]] = deque()
        try:
            for key in keys:
                waiting.append((key, pool.submit(read, key)))
                if len(waiting) > workers:
                    first, value = waiting.popleft()
                    yield first, value.result()
                    del value
            while waiting:
                first, value = waiting.popleft()
                yield first, value.result()
                del value
        finally:
            for _, left in waiting:
                left.cancel()
