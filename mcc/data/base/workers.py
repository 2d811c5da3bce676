"""Work spread over processes, in order and with bounded memory."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import pickle
import signal
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from importlib import import_module
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from mcc.core.errors import MccError

Item = TypeVar("Item")
Result = TypeVar("Result")

_LOOK_S = 0.5
# Gives the process that had an item more to do with what it made for that.
Again = Callable[[Any], "Future[Any]"]

# Items handed to each other process, so that it has some while this one works on an item of its own.
_AHEAD = 2
# Results that may wait for an earlier one, for each process: until the others have started, this one works on.
_WAITING = 8
# What a worker process applies to every item of one `map`, and the file that it was made from.
_made: tuple[Path, Callable[[Any], Any]] | None = None


class WorkerDied(MccError):
    """A process was killed; what it had done before may be used."""


class Workers:
    """This process and others, to share work: `with Workers(2) as workers: ... workers.map(...)`.

    The others start with the first work there is, or before, and stay for all that comes.

    Args:
        count: processes, this one among them.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        # A pool for each process: what one keeps can be asked of that one only.
        self._pools: list[ProcessPoolExecutor] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._numbers = itertools.count()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for pool in self._pools:
            pool.shutdown(wait=False, cancel_futures=True)
        for pool in self._pools:
            pool.shutdown(wait=True)
        if self._folder is not None:
            self._folder.cleanup()
        if isinstance(error, BrokenProcessPool):
            hint = "was it killed, or out of memory? the same command goes on, perhaps with fewer workers"
            raise WorkerDied("a worker process died", hint) from error

    def start(self, module: str) -> None:
        """Let the others start and import a module that they will need, while this process prepares their work."""
        if self.count > 1:
            for pool in self._started():
                pool.submit(import_module, module)

    def map(
        self, make: Callable[[], Callable[[Item], Result]], items: Iterable[Item]
    ) -> Iterator[tuple[Result, Again]]:
        """`make()` applied to every item, the results in the items' order; with each a function that applies what
        `make` made, in the same process, to one thing more, behind the items that wait there already.

        Args:
            make: called once in each process; must be picklable when there are others.
            items: read some eight items a process ahead and no further, so that memory does not grow with the corpus.

        Raises:
            BrokenProcessPool: a process died; leaving `with Workers(...)` makes a `WorkerDied` of it.
        """
        if self.count == 1:
            here = partial(_here, make())
            yield from ((here(item).result(), here) for item in items)
            return
        what = self._written(make)
        others: list[Again] = [partial(_there, pool, what) for pool in self._started()]
        this: Again | None = None
        window: deque[tuple[Future[Result], Again]] = deque()
        problem: list[Exception] = []
        source = _until(items, problem)
        ahead = deque(islice(source, _AHEAD + 1))
        try:
            while ahead or window:
                # The last ones are done by whoever is free, so that all end together.
                enough = _AHEAD if len(ahead) > _AHEAD else 1
                waiting = Counter(process for future, process in window if not future.done())
                process = min(others, key=waiting.__getitem__)
                # The others get work first, then results are used, then this process works too.
                idle = bool(ahead) and waiting[process] < enough
                if window and not idle and (window[0][0].done() or not ahead or len(window) > _WAITING * self.count):
                    future, process = window.popleft()
                    yield future.result(), process
                    continue
                if not idle:
                    process = this = this or partial(_here, make())
                item = ahead.popleft()
                ahead.extend(islice(source, 1))
                window.append((process(item), process))
            if problem:
                raise problem[0]
        finally:
            for future, _ in window:
                future.cancel()

    def _started(self) -> list[ProcessPoolExecutor]:
        if not self._pools:
            # Started afresh, not forked: some libraries have threads of their own, which do not survive a fork.
            context = multiprocessing.get_context("spawn")
            self._pools = [
                ProcessPoolExecutor(1, context, initializer=_start, initargs=(os.getpid(),))
                for _ in range(self.count - 1)
            ]
        return self._pools

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
        for result, _ in workers.map(make, items):
            yield result


def _until(items: Iterable[Item], problem: list[Exception]) -> Iterator[Item]:
    """The items up to one that cannot be read, whose error waits for its turn in `problem`."""
    try:
        yield from items
    except Exception as error:
        problem.append(error)


def _here(function: Callable[[Item], Result], item: Item) -> Future[Result]:
    """`function(item)` in this process. An error waits for its turn: the first bad item of all is the one told of."""
    future: Future[Result] = Future()
    try:
        future.set_result(function(item))
    except Exception as error:
        future.set_exception(error)
    return future


def _there(pool: ProcessPoolExecutor, what: Path, item: Any) -> Future[Any]:
    """What is in the file `what`, applied to an item in the process of a pool."""
    return pool.submit(_apply, what, item)


def _start(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers
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
