"""The guard outlives its connection to the group's store, and does not wait for a store that is frozen."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from mcc.core.ranks import Ranks
from mcc.train.bounded import TICK_S
from mcc.train.faults import Account
from mcc.train.guard import Guard
from tests.ranks import run_ranks

TIMEOUT_S = 2.0
LIMIT_S = 10.0


def _sockets() -> set[int]:
    files = Path("/proc/self/fd").iterdir()
    return {int(file.name) for file in files if file.is_symlink() and str(file.readlink()).startswith("socket:")}


def _hosted_by_rank_0() -> tuple[dist.Store | None, list[int]]:
    """A store for the guards, to hold on to, and the processes of all ranks."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) if dist.get_rank() == 0 else None
    told: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(told, (os.getpid(), store.port if store else 0))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(told[0][1]))
    return store, [pid for pid, _ in told]


def _ended(guard: Guard) -> None:
    """All guards together: one that ended first would look gone to the others."""
    dist.barrier()
    guard.stop(done=True)
    dist.barrier()


def _watched_over_a_broken_connection() -> list[Account]:
    """What the guards of two ranks report while rank 1's connection breaks, and none of them is dead."""
    rank, told = dist.get_rank(), list[Account]()
    _store, _ = _hosted_by_rank_0()
    before = _sockets()
    guard = Guard(Ranks(rank=rank, world_size=2), TIMEOUT_S, 60.0, told.append)
    guard.start()
    if rank == 1:
        (mine,) = _sockets() - before
        with socket.socket(fileno=os.dup(mine)) as connection:
            connection.shutdown(socket.SHUT_RDWR)
    time.sleep(2 * TIMEOUT_S)
    _ended(guard)
    return told


def test_a_connection_that_breaks_is_opened_again():
    assert run_ranks(_watched_over_a_broken_connection, 2) == [[], []]


def _watched_over_a_frozen_host(noticed_first: bool) -> tuple[list[str], float, float]:
    """Rank 1's reports while the host of the store is frozen; seconds until then, and of its longest own call."""
    rank, told = dist.get_rank(), list[Account]()
    _store, processes = _hosted_by_rank_0()
    guard = Guard(Ranks(rank=rank, world_size=2), TIMEOUT_S, 60.0, told.append)
    if rank == 0:
        guard.start()
        guard.stop(done=True)  # the other one is not to find it silent
        dist.barrier()
        dist.barrier()
        return [], 0.0, 0.0
    dist.barrier()
    guard.start()
    time.sleep(2 * TICK_S)
    os.kill(processes[0], signal.SIGSTOP)
    try:
        began, calls = time.monotonic(), list[float]()
        mine = Account(rank=1, what="an error", time=time.time())
        for call in (lambda: guard.tell(mine), guard.told, lambda: guard.stop(done=True)):
            while not told and (noticed_first or len(calls) == 2) and time.monotonic() < began + LIMIT_S:
                time.sleep(0.01)
            at = time.monotonic() - began if told else LIMIT_S
            start = time.monotonic()
            call()
            calls.append(time.monotonic() - start)
    finally:
        os.kill(processes[0], signal.SIGCONT)
    dist.barrier()
    return [account.what for account in told], at, max(calls)


@pytest.mark.parametrize("noticed_first", [True, False], ids=["guard", "main thread"])
def test_a_frozen_host_of_the_store_is_reported_and_holds_nobody_up(noticed_first):
    _, (told, seconds, longest) = run_ranks(_watched_over_a_frozen_host, 2, noticed_first, limit_s=40.0)
    assert told == ["it cannot reach the group's store at 127.0.0.1 any more"]
    assert seconds < LIMIT_S
    assert longest < LIMIT_S / 2


def _suspended_and_resumed() -> list[Account]:
    """What the guards of ranks 0 and 1 report when rank 2 has suspended both for longer than their timeout."""
    rank, told = dist.get_rank(), list[Account]()
    _store, processes = _hosted_by_rank_0()
    guard = Guard(Ranks(rank=rank, world_size=2), TIMEOUT_S, 60.0, told.append)
    if rank < 2:
        guard.start()
    dist.barrier()
    if rank == 2:
        time.sleep(2 * TICK_S)
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for process in processes[:2]:
                os.kill(process, number)
            time.sleep(2 * TIMEOUT_S)
    _ended(guard)
    return told


def test_a_suspended_job_goes_on():
    assert run_ranks(_suspended_and_resumed, 3) == [[], [], []]
