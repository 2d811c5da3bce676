"""Batch-size ramp-up (Megatron-LM's `--rampup-batch-size`): how many samples each step takes, and after how many.

With start G0, increment d, final size G and R samples of ramp-up, the batch after c consumed samples has

    G                                    for c > R
    G0 + floor(c k / R) d,  k = (G - G0) / d    before

samples. Everything is a function of the step alone, so a resumed run takes the same samples in the same steps.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from mcc.core.errors import UsageError

Ramp = tuple[int, int, int]


@dataclass(frozen=True)
class Progress:
    """Where a step stands.

    Attributes:
        step: optimizer steps before it.
        samples: samples consumed before it, over all replicas.
        batch: samples that it takes itself.
    """

    step: int
    samples: int
    batch: int


class BatchSizes:
    """The global batch of every step.

    Args:
        full: samples a step, after the ramp-up.
        ramp: (start, increment, samples), or None: every step is full.

    Raises:
        UsageError: the increments do not lead from the start to the full batch.

    >>> sizes = BatchSizes(8, (2, 2, 60))
    >>> [sizes.at(step).batch for step in (0, 9, 10, 14, 15, 18, 19, 1000)]
    [2, 2, 4, 4, 6, 6, 8, 8]
    >>> sizes.at(10)
    Progress(step=10, samples=20, batch=4)
    """

    def __init__(self, full: int, ramp: Ramp | None = None) -> None:
        self.full, self.ramp = full, ramp
        self._phases = [Progress(0, 0, full)]  # where each size begins
        if ramp is None:
            return
        start, increment, samples = ramp
        if not 0 < start <= full or increment < 1 or samples < 1 or (full - start) % increment:
            raise UsageError(
                f"rampup_batch_size = {start} {increment} {samples} does not lead to global_batch_size = {full}",
                "START INCREMENT SAMPLES: global_batch_size - START is a multiple of INCREMENT, SAMPLES is positive",
            )
        self._phases = self._ramp(start, increment, samples)

    def after(self, samples: int) -> int:
        """Samples of the step that begins when `samples` are consumed."""
        if self.ramp is None or samples > self.ramp[2] or self.ramp[0] == self.full:
            return self.full
        start, increment, length = self.ramp
        return start + samples * ((self.full - start) // increment) // length * increment

    def at(self, step: int) -> Progress:
        """Where step `step`, counted from 0, stands."""
        phase = self._phases[bisect_right(self._phases, step, key=lambda phase: phase.step) - 1]
        return Progress(step, phase.samples + (step - phase.step) * phase.batch, phase.batch)

    def steps(self, samples: int) -> int:
        """Steps that consume at least `samples` samples.

        >>> BatchSizes(8, (2, 2, 60)).steps(20), BatchSizes(8, (2, 2, 60)).steps(21)
        (10, 11)
        """
        phase = self._phases[bisect_right(self._phases, max(0, samples - 1), key=lambda phase: phase.samples) - 1]
        return phase.step - (phase.samples - samples) // phase.batch

    @property
    def sizes(self) -> list[int]:
        """Every size that occurs, growing."""
        return [phase.batch for phase in self._phases]

    def check(self, micro_batch_size: int, dp: int) -> None:
        """Refuse sizes that do not divide into micro-batches.

        Raises:
            UsageError: one does not.
        """
        unit = micro_batch_size * dp
        for size in self.sizes:
            if size % unit:
                name = "global_batch_size" if size == self.full else f"rampup_batch_size {self.ramp}: a batch"
                raise UsageError(
                    f"{name} = {size} is not a multiple of micro_batch_size*dp = {micro_batch_size}*{dp} = {unit}"
                )

    def _ramp(self, start: int, increment: int, length: int) -> list[Progress]:
        rises = (self.full - start) // increment
        step = samples = 0
        phases = [Progress(0, 0, self.after(0))]
        while phases[-1].batch < self.full:
            size = phases[-1].batch
            # The first count of consumed samples at which the formula gives more.
            edge = -(-((size - start) // increment + 1) * length // rises)
            count = -(-(edge - samples) // size)
            step, samples = step + count, samples + count * size
            phases.append(Progress(step, samples, self.after(samples)))
        return phases
