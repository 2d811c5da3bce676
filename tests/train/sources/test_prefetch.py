"""Batches made ahead are the same batches."""

from __future__ import annotations

import threading

import pytest
import torch

from mcc.core.errors import MccError
from mcc.train.batch import Batch
from mcc.train.sources.prefetch import Prefetched
from mcc.train.sources.source import Source


class Numbers(Source):
    """Sample i is the number i; it remembers who asked for what."""

    seq_length = 1

    def __init__(self) -> None:
        self.made: list[range] = []
        self.threads: set[str] = set()

    def __len__(self) -> int:
        return 20

    def take(self, samples: range) -> Batch:
        self.made.append(samples)
        self.threads.add(threading.current_thread().name)
        if 17 in samples:
            raise MccError("sample 17 is bad")
        return {"tokens": torch.tensor(samples)[:, None]}


def test_the_next_batch_is_made_ahead() -> None:
    source = Numbers()
    ahead = Prefetched(source)
    # The batch size grows at sample 8, and the run starts in the middle.
    for first, count in ((2, 2), (4, 2), (6, 2), (8, 4), (12, 4)):
        batch = ahead.batch(first, count, 1, 2)
        assert batch["tokens"].flatten().tolist() == list(range(first + count // 2, first + count))
    ahead.close()
    assert source.made[:6] == [range(n, n + 1) for n in (3, 5, 7)] + [range(9, 10), range(10, 12), range(14, 16)]
    assert all(name.startswith("batches") for name in source.threads)


def test_an_error_comes_from_the_call_that_wants_the_batch() -> None:
    ahead = Prefetched(Numbers())
    assert ahead.batch(12, 4)["tokens"].shape == (4, 1)
    with pytest.raises(MccError, match="sample 17 is bad"):
        ahead.batch(16, 4)
    assert ahead.batch(0, 4)["tokens"][0].item() == 0
    ahead.close()
