"""The same windows of tokens in every epoch, in another order each: what is remembered of a sample can be used again.

The documents are laid end to end as they stand in the file and cut every L tokens; window j is the L+1 tokens from
position j*L. What is left at the end is no window, and windows that fill no batch are left out: an epoch is whole
batches. A window has the same place within the batch in every epoch, so with data parallelism it stays on its replica,
whatever their number: only the order within each place changes.
"""

# L tokens of a window   N windows   B samples of a batch   K = N // B batches of an epoch

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mcc.core.errors import MccError
from mcc.data.indexed import IndexedDataset
from mcc.data.samples import Indices, window_starts


@dataclass(frozen=True)
class WindowKey:
    """What decides the windows of a token file: documents `start` .. `stop`-1 and L."""

    start: int
    stop: int
    seq_length: int


def build_windows(dataset: IndexedDataset, documents: range, seq_length: int) -> Indices:
    """The windows of some sequences, in order.

    Raises:
        MccError: there is not one.
    """
    order = np.arange(documents.start, documents.stop, dtype=np.int32)
    tokens = int(dataset.sizes[documents.start : documents.stop].sum(dtype=np.int64))
    if tokens <= seq_length:
        raise MccError(
            f"{dataset.prefix}: {len(documents)} documents with {tokens} tokens have no window of {seq_length} tokens "
            "and the next one",
            "give this split more weight, or lower --seq-length",
        )
    starts = window_starts(dataset.sizes, order, seq_length)
    return Indices(order, starts, np.arange(len(starts) - 1, dtype=np.uint32))


class FixedOrder:
    """Which window stands where, in all epochs.

    Args:
        windows: N.
        batch: B.
        seed: of the order.

    >>> order = FixedOrder(7, 2, seed=1)
    >>> order.epoch, order.left_out
    (6, 1)
    >>> [[order.window(6 * epoch + i) for i in range(6)] for epoch in range(2)]
    [[4, 2, 6, 3, 1, 0], [1, 0, 6, 2, 4, 3]]

    Attributes:
        epoch: samples of an epoch, K*B. left_out: windows that are in none.

    Raises:
        MccError: N < B.
    """

    def __init__(self, windows: int, batch: int, seed: int) -> None:
        if windows < batch:
            raise MccError(
                f"the data has {windows} windows, fewer than global_batch_size = {batch}", "lower --global-batch-size"
            )
        self.batch, self.seed, self.steps = batch, seed, windows // batch
        self.epoch, self.left_out = self.steps * batch, windows % batch
        drawn = np.random.RandomState(seed % (1 << 32)).permutation(windows)
        self._places_KB: NDArray[np.int64] = drawn[: self.epoch].reshape(self.steps, batch)
        self._orders: dict[int, NDArray[np.int64]] = {}

    def window(self, i: int) -> int:
        """The window of sample i, counted over all epochs."""
        epoch, place = divmod(i, self.epoch)
        if epoch not in self._orders:
            # A batch of a ramp-up may begin in one epoch and end in the next.
            self._orders = {e: order for e, order in self._orders.items() if e == epoch - 1}
            self._orders[epoch] = self._order(epoch)
        return int(self._orders[epoch][place])

    def _order(self, epoch: int) -> NDArray[np.int64]:
        """int64[K*B]: every place of the batch has its own windows, in an order of its own."""
        keys_KB = np.random.RandomState((self.seed + 1 + epoch) % (1 << 32)).random_sample((self.steps, self.batch))
        return np.take_along_axis(self._places_KB, keys_KB.argsort(0, kind="stable"), 0).reshape(-1)
