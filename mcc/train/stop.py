"""Stopping at the end of a step: SIGTERM, and the SIGUSR1 that Slurm sends before a job's time is up."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import torch
import torch.distributed as dist

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Stop:
    """Within the block the signals only make a wish. `agreed` tells every rank alike.

    Args:
        enabled: whether to catch the signals; without, they end the process as ever.

    Attributes:
        asked: the signal that this rank got.
        agreed_at: what `agreed` was called with when it was True.
    """

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled
        self.asked: signal.Signals | None = None
        self.agreed_at: int | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Stop:
        # Python hands signals to the main thread alone.
        if self.enabled and threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        # A second signal changes nothing: a group's signal and the launcher's own often come both.
        self.asked = signal.Signals(number)

    def agreed(self, step: int, group: dist.ProcessGroup | None = None) -> bool:
        """Whether any rank was asked to stop, so that all end after `step`: the same on all. Collective.

        Args:
            step: taken last.
            group: all ranks; takes CPU tensors.
        """
        if not self.enabled:
            return False
        wish = self.asked is not None
        if dist.get_world_size() > 1:
            wishes = torch.tensor([int(wish)])
            dist.all_reduce(wishes, op=dist.ReduceOp.MAX, group=group)
            wish = bool(wishes)
        self.agreed_at = step if wish else None
        return wish
