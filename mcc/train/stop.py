"""Stopping at the end of a step: SIGTERM, and the SIGUSR1 that Slurm sends before a job's time is up."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
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

    @contextmanager
    def ends_within(self, limit_s: float) -> Iterator[None]:
        """Within the block a signal ends the process after `limit_s`, unless the block ends before.

        There torch waits for other ranks, one of which may have died, where Python's handlers do not get through.
        """
        if not self._before:
            yield
            return
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        over = threading.Event()
        thread = threading.Thread(target=_end, args=(reader, over, limit_s), name="stop", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            signal.set_wakeup_fd(before)
            writer.close()
            thread.join()
            reader.close()

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


def _end(signals: socket.socket, over: threading.Event, limit_s: float) -> None:
    while received := signals.recv(64):  # the number of each signal, as a byte
        if any(number in received for number in SIGNALS) and not over.wait(limit_s):
            os._exit(1)
