"""The next batch is made while this one is trained on."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from mcc.train.batch import Batch
from mcc.train.sources.source import Source

_Asked = tuple[int, int, int, int]


class Prefetched(Source):
    """A source whose batches are made by a thread, one ahead: the guess is that as many samples are wanted next.

    A wrong guess (the batch size changed) costs the time of making one batch. Everything runs in the one thread, so
    the source behind may keep state. An error comes from the call that asks for the batch.
    """

    def __init__(self, source: Source) -> None:
        self.source, self.rows, self.seq_length = source, source.rows, source.seq_length
        self.epoch_samples, self.distinct = source.epoch_samples, source.distinct
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._ahead: tuple[_Asked, Future[Batch]] | None = None

    def __len__(self) -> int:
        return len(self.source)

    def take(self, samples: range) -> Batch:
        return self._thread.submit(self.source.take, samples).result()

    def batch(self, first: int, count: int, replica: int = 0, replicas: int = 1) -> Batch:
        asked = (first, count, replica, replicas)
        if self._ahead is not None and self._ahead[0] == asked:
            future = self._ahead[1]
        else:
            future = self._thread.submit(self.source.batch, *asked)
        found = future.result()
        following = (first + count, count, replica, replicas)
        self._ahead = None
        if first + 2 * count <= len(self.source):
            self._ahead = (following, self._thread.submit(self.source.batch, *following))
        return found

    def close(self) -> None:
        """End the thread; a batch that nobody asked for is dropped."""
        self._thread.shutdown(wait=True, cancel_futures=True)
