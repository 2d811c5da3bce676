"""The process group's store with an end to every call: torch's waits for ever where the store's host is frozen."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent import futures
from queue import SimpleQueue
from typing import TypeVar

import torch.distributed as dist

TICK_S = 0.5

T = TypeVar("T")


class BoundedStore:
    """A connection to a store, in a thread of its own. A call without an answer leaves both to themselves, for good.

    Args:
        opened: opens the connection.
        looks: so many times `TICK_S` may a call take. Counted, not read from the clock: a whole job may be suspended.
        opening_looks: so many the opening.

    Raises:
        TimeoutError: no answer; every method may raise it.
        ConnectionError: a call before had none, or failed; likewise.
    """

    def __init__(self, opened: Callable[[], dist.Store], looks: int, opening_looks: int) -> None:
        self.lost = False
        self._looks = looks
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=_serve, args=(self._calls,), name="store", daemon=True)
        self._thread.start()
        self._store = self._call(opened, opening_looks)

    def add(self, key: str, amount: int) -> int:
        return self._call(lambda: self._store.add(key, amount), self._looks)

    def set(self, key: str, value: str) -> None:
        self._call(lambda: self._store.set(key, value), self._looks)

    def get(self, key: str) -> bytes:
        return self._call(lambda: self._store.get(key), self._looks)

    def check(self, keys: list[str]) -> bool:
        return self._call(lambda: self._store.check(keys), self._looks)

    def compare_set(self, key: str, expected: str, value: str) -> bytes:
        return self._call(lambda: self._store.compare_set(key, expected, value), self._looks)

    def close(self) -> None:
        """End the thread, unless it is stuck; calls fail from now on."""
        if not self.lost:
            self._leave()
            self._thread.join(self._looks * TICK_S)

    def _call(self, function: Callable[[], T], looks: int) -> T:
        if self.lost:
            raise ConnectionError("the connection to the group's store is lost")
        answer: futures.Future[T] = futures.Future()

        def fulfil() -> None:
            try:
                answer.set_result(function())
            except BaseException as error:
                answer.set_exception(error)

        self._calls.put(fulfil)
        try:
            for _ in range(looks):
                if futures.wait([answer], TICK_S).done:
                    return answer.result()
            raise TimeoutError("the group's store does not answer")
        except Exception:
            self._leave()
            raise

    def _leave(self) -> None:
        self.lost = True
        self._calls.put(None)


def _serve(calls: SimpleQueue[Callable[[], None] | None]) -> None:
    while (call := calls.get()) is not None:
        call()
