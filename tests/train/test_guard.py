"""The guard outlives its connection to the group's store."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import torch.distributed as dist

from mcc.core.ranks import Ranks
from mcc.train.faults import Account
from mcc.train.guard import Guard
from tests.ranks import run_ranks

TIMEOUT_S = 2.0


def _sockets() -> set[int]:
    files = Path("/proc/self/fd").iterdir()
    return {int(file.name) for file in files if file.is_symlink() and str(file.readlink()).startswith("socket:")}


def _watched_over_a_broken_connection() -> list[Account]:
    """What the guards of two ranks report while rank 1's connection breaks, and none of them is dead."""
    rank, told = dist.get_rank(), list[Account]()
    port = [0]
    if rank == 0:
        kept = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        port = [kept.port]
    dist.broadcast_object_list(port)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port[0]))
    before = _sockets()
    guard = Guard(Ranks(rank=rank, world_size=2), TIMEOUT_S, 60.0, told.append)
    guard.start()
    if rank == 1:
        (mine,) = _sockets() - before
        with socket.socket(fileno=os.dup(mine)) as connection:
            connection.shutdown(socket.SHUT_RDWR)
    time.sleep(2 * TIMEOUT_S)
    dist.barrier()
    guard.stop(done=True)
    dist.barrier()
    return told


def test_a_connection_that_breaks_is_opened_again():
    assert run_ranks(_watched_over_a_broken_connection, 2) == [[], []]
