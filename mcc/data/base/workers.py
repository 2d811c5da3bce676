"""Work spread over processes, in order and with bounded memory."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import pickle
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar

from mcc.core.errors import MccError

Item = TypeVar("Item")
Result = TypeVar("Result")

_LOOK_S = 0.5
# Items handed to each other process, so that it has some while this one works on an item of its own.
_AHEAD = 3
# Results that may wait for an earlier one, for each process.
_WAITING = 4
# What a worker process applies to every item of one `map`, and the file that it was made from.
_made: tuple[Path, Callable[[Any], Any]] | None = None


class Workers:
    """This process and others, to share work: `with Workers(2) as workers: ... workers.map(...)`.

    The others start with the first work there is and stay for all that comes.

    Args:
        count: processes, this one among them.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool: ProcessPoolExecutor | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._numbers = itertools.count()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        if self._folder is not None:
            self._folder.cleanup()

    def map(self, make: Callable[[], Callable[[Item], Result]], items: Iterable[Item]) -> Iterator[Result]:
        """`make()` applied to every item, the results in the items' order.

        Args:
            make: called once in each process; must be picklable when there are others.
            items: read no further ahead than four items a process, so that memory does not grow with the corpus.

        Raises:
            MccError: a process died (killed, or out of memory).
        """
        if self.count == 1:
            yield from map(make(), items)
            return
        others, pool, what = self.count - 1, self._started(), self._written(make)
        window: deque[Future[Result]] = deque()
        own: Callable[[Item], Result] | None = None
        try:
            for item in items:
                if sum(not future.done() for future in window) < _AHEAD * others:
                    window.append(pool.submit(_apply, what, item))
                else:
                    own = own or make()
                    window.append(_here(own, item))
                while window and (window[0].done() or len(window) > _WAITING * self.count):
                    yield window.popleft().result()
            while window:
                yield window.popleft().result()
        except BrokenProcessPool as error:
            raise MccError("a worker process died", "was it killed, or out of memory? try fewer workers") from error
        finally:
            for future in window:
                future.cancel()

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            # Started afresh, not forked: some libraries have threads of their own, which do not survive a fork.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.count - 1, context, initializer=_start, initargs=(os.getpid(),))
        return self._pool

    def _written(self, make: Callable[[], object]) -> Path:
        """`make` in a file: it may hold a vocabulary, too much to go with every item."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="mcc-workers-")
        path = Path(self._folder.name) / str(next(self._numbers))
        path.write_bytes(pickle.dumps(make))
        return path


def ordered_map(make: Callable[[], Callable[[Item], Result]], items: Iterable[Item], count: int) -> Iterator[Result]:
    """`Workers.map` of `count` processes that are there for this alone."""
    with Workers(count) as workers:
        yield from workers.map(make, items)


def _here(function: Callable[[Item], Result], item: Item) -> Future[Result]:
    """`function(item)` in this process. An error waits for its turn: the first bad item of all is the one told of."""
    future: Future[Result] = Future()
    try:
        future.set_result(function(item))
    except Exception as error:
        future.set_exception(error)
    return future


def _start(parent: int) -> None:
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one process, one core


def _end_with(parent: int) -> None:
    """A worker whose parent was killed would wait for work for ever."""
    while os.getppid() == parent:
        time.sleep(_LOOK_S)
    os._exit(1)


def _apply(what: Path, item: Any) -> Any:
    global _made
    if _made is None or _made[0] != what:
        _made = None  # what the work before needed is freed first
        _made = what, pickle.loads(what.read_bytes())()
    return _made[1](item)
