"""The bytes that leave this rank, counted where they are sent, by site."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from mcc.train.trace import Recorder

# Every site that sends, in the order in which ranks sum their bytes.
SITES = (
    "pp.forward",
    "pp.backward",
    "tp.forward",
    "tp.backward",
    "tp.vocab",
    "tp.tokens",
    "cp.kv",
    "cp.grad",
    "dp.grad",
    "zero.grads",
    "zero.weights",
    "embedding",
    "norm",
)


class Wire:
    """A rank's ledger of sent bytes.

    Point-to-point sends count as they are. A collective counts what the standard algorithm sends from each of its N
    members: all-gather (N-1) x its payload, ring all-reduce 2(N-1)/N, all-to-all (N-1)/N.

    Attributes:
        recorder: records when this rank computes, codes and communicates; off unless a trace is wanted.
        verify: whether coded messages and sums are checked (`mcc.train.compress.verify`).
    """

    def __init__(self) -> None:
        self.recorder = Recorder()
        self.verify = False
        self._sent: Counter[str] = Counter()
        self._paused = False

    def add(self, site: str, nbytes: float) -> None:
        """`nbytes` left this rank at `site`, which is one of `SITES`."""
        assert site in SITES, f"site {site} is not counted"
        if not self._paused:
            self._sent[site] += round(nbytes)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Count nothing within the block: evaluation is no training traffic."""
        self._paused, before = True, self._paused
        try:
            yield
        finally:
            self._paused = before

    def take(self) -> dict[str, int]:
        """The bytes by site since the last call."""
        taken = dict(self._sent)
        self._sent.clear()
        return taken
