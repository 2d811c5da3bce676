"""No rank waits for ever: each tells the others that it lives, and ends when one of them is dead or stuck.

A thread of each rank beats in the process group's store and watches the next rank's beat. A rank without a beat (its
process is stopped, its machine is gone) is reported by the one before it, and killed where that is possible; one whose
process is seen to be gone, at once. Every rank sees the report and ends, if need be by force, so that the launcher can
restart or report the job; so does a rank that gets no answer from the store. A rank that beats but keeps another
waiting too long is found by where its main thread stands.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import torch.distributed as dist

from mcc.core.ranks import Ranks, restart_count
from mcc.train.bounded import TICK_S, BoundedStore
from mcc.train.faults import Account

# After a report a rank has so long to end by itself, with its own account of what it saw.
GRACE_S = 5.0
_JOIN_S = 3.0
_ENDED = 1 << 40  # added to the beat of a rank that needs no watching any more
_LONGER = "if it may take so long: --distributed-timeout-minutes"
_TRIES = 3  # within the timeout: a call of the store may take so much of it, then a new connection is tried
_RECONNECT_LOOKS = 8  # that find no store, for each new connection: where it is gone, one takes as long as a look
_GONE_LOOKS = 2  # without a beat, until its process is looked for: one that ends well says so first


def _host() -> str:
    """This machine, and who else's process numbers are ours: containers may share its name."""
    with suppress(OSError):
        return f"{socket.gethostname()} {Path('/proc/self/ns/pid').readlink()}"
    return socket.gethostname()


_HOST = _host()


class Guard:
    """Watches over the ranks while they train.

    Args:
        ranks: this process.
        timeout_s: a rank without a beat for so long is dead; 0: none is watched.
        patience_s: so long may one message or collective take.
        report: what to do with the account of a dead or stuck rank, besides telling the others.
        named: the launcher names a rank whose process is gone, and the signal: it is not reported.
    """

    def __init__(
        self,
        ranks: Ranks,
        timeout_s: float,
        patience_s: float,
        report: Callable[[Account], None],
        named: bool = False,
    ) -> None:
        self.ranks, self.timeout_s, self.patience_s, self.report = ranks, timeout_s, patience_s, report
        self.named = named
        self._waits = 0  # looks at the main thread in a row that found it at the same wait
        self._at: tuple[int, int] | None = None
        self._answer_looks = max(1, round(timeout_s / _TRIES / TICK_S))
        self._store: Any = None
        self._ending = threading.Event()
        self._main = threading.main_thread().ident
        self._thread = threading.Thread(target=self._run, name="guard", daemon=True)

    def start(self) -> None:
        """Begin, when the process group is up over a store that `MASTER_ADDR` and `MASTER_PORT` name."""
        if self.ranks.world_size == 1 or not self.timeout_s:
            return
        self._store = self._connection(self.timeout_s)
        self._beat()
        self._thread.start()

    def _connection(self, timeout_s: float) -> BoundedStore:
        """A connection of its own to the group's store: the group's may be busy with a wait."""
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        timeout = timedelta(seconds=timeout_s)

        def opened() -> dist.Store:
            store = dist.TCPStore(host, port, is_master=False, timeout=timeout, wait_for_workers=False)
            return dist.PrefixStore(f"mcc/guard/{restart_count()}", store)

        # torch's timeout is for a host that can't be reached, ours for one that is frozen: its kernel still connects.
        return BoundedStore(opened, self._answer_looks, max(self._answer_looks, round(timeout_s / TICK_S)))

    def stop(self, done: bool) -> None:
        """End; `done`: this rank has done its work, and needs no watching any more."""
        self._ending.set()
        if self._store is None:
            return
        # A thread inside the store's code when Python ends would take the process down with a message.
        self._thread.join(_JOIN_S)
        if done:
            with suppress(Exception):
                self._store.add(f"beat/{self.ranks.rank}", _ENDED)
        self._store.close()

    def tell(self, account: Account) -> None:
        """Tell every rank that one failed, and why if it was the cause; the first to do so is believed."""
        if self._store is not None:
            with suppress(Exception):
                if account.cause:
                    self._store.compare_set("reason", "", json.dumps([account.rank, account.what]))
                self._store.add("failed", 1)

    def told(self) -> tuple[int, str] | None:
        """The rank that failed and why, if one told."""
        with suppress(Exception):
            if self._store is not None and self._store.check(["reason"]):
                rank, what = json.loads(self._store.get("reason"))
                return int(rank), str(what)
        return None

    def _run(self) -> None:
        quiet, unreachable = _Silence(self.timeout_s), _Silence(self.timeout_s)
        ends: float | None = None
        beat = again = 0
        while not self._ending.wait(TICK_S):
            if ends is None and self._store.lost and _suspended(os.getppid()):
                continue  # Ctrl-Z stops a launcher that hosts the store, not its ranks: they go on
            try:
                if ends is None:
                    if self._store.lost and unreachable.looks >= again:
                        again = unreachable.looks + _RECONNECT_LOOKS
                        self._store = self._connection(TICK_S)
                    ends = self._tick(quiet)
                beat += 1
                again = 0
                unreachable.seen(beat)
            except Exception as error:  # the connection broke, or the store's host is gone or frozen
                waited = self._answer_looks if isinstance(error, TimeoutError) else 0
                if unreachable.seen(beat, 1 + waited):
                    what = f"it cannot reach the group's store at {os.environ['MASTER_ADDR']} any more"
                    self.report(Account(rank=self.ranks.rank, what=what, time=time.time()))
                    ends = time.monotonic() + GRACE_S
            if ends is not None and time.monotonic() > ends:
                os._exit(1)  # the main thread may never come back from where it waits

    def _blame(self) -> Account:
        """The rank that this one waits for: the first whose main thread does not wait itself."""
        for rank in range(self.ranks.world_size):
            seen = json.loads(self._store.get(f"at/{rank}"))
            if not seen["waits"]:
                what = f"it kept rank {self.ranks.rank} waiting for {self.patience_s:g} s: it is in {seen['where']}"
                return Account(rank=rank, what=what, hint=_LONGER, time=time.time())
        where = json.loads(self._store.get(f"at/{self.ranks.rank}"))["where"]
        what = f"all ranks wait for each other, this one for {self.patience_s:g} s in {where}"
        return Account(rank=self.ranks.rank, what=what, time=time.time())

    def _beat(self) -> None:
        frame = sys._current_frames().get(self._main or 0)
        waits, where = _position(frame)
        at = (id(frame), frame.f_lasti) if frame is not None and waits else None
        self._waits = self._waits + 1 if at is not None and at == self._at else 0
        self._at = at
        me = {"waits": waits, "where": where, "pid": os.getpid(), "host": _HOST}
        self._store.set(f"at/{self.ranks.rank}", json.dumps(me))
        self._store.add(f"beat/{self.ranks.rank}", 1)

    def _tick(self, quiet: _Silence) -> float | None:
        """Beat, and look at the next rank; the moment to end at, if a rank has failed."""
        self._beat()
        after = (self.ranks.rank + 1) % self.ranks.world_size
        beat = self._store.add(f"beat/{after}", 0)
        if quiet.seen(beat):
            account = Account(rank=after, what=f"no sign of life for {self.timeout_s:g} s", time=time.time())
            self.report(account)
            self.tell(account)
            self._kill(after)
        elif quiet.looks >= _GONE_LOOKS and self._gone(after):
            account = Account(rank=after, what="its process is gone", time=time.time())
            if not self.named:
                self.report(account)
            self.tell(account)
        elif self._waits == round(self.patience_s / TICK_S):
            account = self._blame()
            self.report(account)
            self.tell(account)
        return time.monotonic() + GRACE_S if self._store.add("failed", 0) else None

    def _kill(self, rank: int) -> None:
        """End a stopped process: signals that it could answer don't reach it."""
        pid = self._here(rank)
        if pid is not None:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)

    def _gone(self, rank: int) -> bool:
        """Whether a rank on this machine has no process any more."""
        pid = self._here(rank)
        if pid is None:
            return False
        try:
            os.kill(pid, 0)
        except OSError as error:
            return isinstance(error, ProcessLookupError)
        return False

    def _here(self, rank: int) -> int | None:
        """The process of a rank on this machine; None: it is elsewhere, or has never beaten."""
        if not self._store.check([f"at/{rank}"]):
            return None
        seen = json.loads(self._store.get(f"at/{rank}"))
        return int(seen["pid"]) if seen["host"] == _HOST else None


class _Silence:
    """Notices, once, that a count stands still. Counts its own looks, not the clock: a whole job may be suspended."""

    def __init__(self, timeout_s: float) -> None:
        self._limit = max(1, round(timeout_s / TICK_S))
        self._last, self.looks = -1, 0

    def seen(self, count: int, looks: int = 1) -> bool:
        if count >= _ENDED or count != self._last:
            self._last, self.looks = count, 0
            return False
        self.looks += looks
        return self.looks - looks < self._limit <= self.looks


def _suspended(pid: int) -> bool:
    """Whether somebody stopped a process of this machine; False where there is no /proc to tell."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return stat.rpartition(") ")[2].startswith(("T", "t"))


def _position(frame: FrameType | None) -> tuple[bool, str]:
    """Whether a thread waits for other ranks, and the line of ours that it is in."""
    waits = frame is not None and _waiting(frame.f_code.co_filename)
    while frame is not None and "mcc" not in Path(frame.f_code.co_filename).parts:
        frame = frame.f_back
    if frame is None:
        return waits, "an unknown place"
    file = Path(frame.f_code.co_filename)
    return waits, f"{file.parent.name}/{file.name}:{frame.f_lineno}, {frame.f_code.co_name}"


def _waiting(file: str) -> bool:
    path = Path(file).as_posix()
    return "torch/distributed/" in path and "torch/distributed/checkpoint/" not in path
