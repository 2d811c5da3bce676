"""Work spread over processes, in order and with bounded memory."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from mcc.core.errors import MccError

Item = TypeVar("Item")
Result = TypeVar("Result")

_LOOK_S = 0.5
# Items handed to each other process, so that it has some while this one works on an item of its own.
_AHEAD = 3
# Results that may wait for an earlier one, for each process.
_WAITING = 4
# What a worker process applies to every item; made once, when it starts.
_function: Callable[[Any], Any] | None = None


def ordered_map(make: Callable[[], Callable[[Item], Result]], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """`make()` applied to every item, the results in the items' order.

    Args:
        make: called once in each process; must be picklable when `workers` > 1.
        items: read no further ahead than four items a worker, so that memory does not grow with the corpus.
        workers: processes, this one among them.

    Raises:
        MccError: a worker process died (killed, or out of memory).
    """
    if workers == 1:
        yield from map(make(), items)
        return
    # Started afresh, not forked: some libraries have threads of their own, which do not survive a fork.
    context = multiprocessing.get_context("spawn")
    others = workers - 1  # this process is a worker, too
    pool = ProcessPoolExecutor(others, context, initializer=_start, initargs=(make, os.getpid()))
    # What a process needs may be much, and the pipe is full until it has started: this one works meanwhile.
    starter = ThreadPoolExecutor(1)
    started = starter.submit(pool.submit, _ready)
    window: deque[Future[Result]] = deque()
    own: Callable[[Item], Result] | None = None
    try:
        for item in items:
            if started.done() and sum(not future.done() for future in window) < _AHEAD * others:
                window.append(pool.submit(_apply, item))
            else:
                own = own or make()
                window.append(_here(own, item))
            while window and (window[0].done() or len(window) > _WAITING * workers):
                yield window.popleft().result()
        while window:
            yield window.popleft().result()
        started.result()
    except BrokenProcessPool as error:
        raise MccError("a worker process died", "was it killed, or out of memory? try fewer workers") from error
    finally:
        starter.shutdown(wait=True)
        pool.shutdown(wait=True, cancel_futures=True)


def _here(function: Callable[[Item], Result], item: Item) -> Future[Result]:
    """`function(item)` in this process. An error waits for its turn: the first bad item of all is the one told of."""
    future: Future[Result] = Future()
    try:
        future.set_result(function(item))
    except Exception as error:
        future.set_exception(error)
    return future


def _start(make: Callable[[], Callable[[Any], Any]], parent: int) -> None:
    global _function
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one process, one core
    _function = make()


def _end_with(parent: int) -> None:
    """A worker whose parent was killed would wait for work for ever."""
    while os.getppid() == parent:
        time.sleep(_LOOK_S)
    os._exit(1)


def _ready() -> None:
    """The first thing that a pool is asked for makes its processes start."""


def _apply(item: Any) -> Any:
    assert _function is not None
    return _function(item)
