"""Runs a function on several gloo ranks: forked from a clean server that imported torch once, under a time limit."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

import pytest

_context = multiprocessing.get_context("forkserver")
# No tensor work in the server: forked threads and OpenMP pools don't survive.
_context.set_forkserver_preload(
    ["torch", "torch.distributed.checkpoint", "torch.distributed.pipelining", "mcc.train.loop"]
)


def run_ranks(function: Callable[..., Any], world_size: int, *args: Any, limit_s: float = 120.0) -> list[Any]:
    """`function(*args)` on every rank of a fresh gloo group; the results in order of rank.

    `function` is a module-level function. The first rank that fails fails the test with its traceback, and the other
    ranks are ended.
    """
    with tempfile.TemporaryDirectory() as folder:
        pipes: list[Connection] = []
        processes = []
        for rank in range(world_size):
            here, there = _context.Pipe(duplex=False)
            process = _context.Process(
                target=_rank, args=(function, rank, world_size, folder, args, there), daemon=True
            )
            process.start()
            there.close()
            pipes.append(here)
            processes.append(process)
        try:
            return _results(pipes, limit_s)
        finally:
            for process in processes:
                process.kill()
                process.join()


def _results(pipes: list[Connection], limit_s: float) -> list[Any]:
    results: dict[int, Any] = {}
    failures: list[tuple[float, int, str]] = []
    deadline = time.monotonic() + limit_s
    while len(results) < len(pipes):
        waiting = [pipe for rank, pipe in enumerate(pipes) if rank not in results]
        # After a failure, a moment for the rank that failed first to say so.
        ready = wait(waiting, timeout=0.5 if failures else max(0.0, deadline - time.monotonic()))
        if not ready:
            break
        for pipe in ready:
            assert isinstance(pipe, Connection)
            rank = pipes.index(pipe)
            try:
                ok, value, when = pickle.loads(pipe.recv_bytes())
            except (EOFError, ConnectionResetError):
                ok, value, when = False, "the rank died without a word", time.time()
            results[rank] = value
            if not ok:
                failures.append((when, rank, value))
    if failures:
        _, rank, text = min(failures)
        pytest.fail(f"rank {rank} failed:\n{text}", pytrace=False)
    if len(results) < len(pipes):
        pytest.fail(f"ranks {sorted(set(range(len(pipes))) - set(results))} did not end within {limit_s} s")
    return [results[rank] for rank in range(len(pipes))]


def _rank(
    function: Callable[..., Any], rank: int, world_size: int, folder: str, args: tuple[Any, ...], pipe: Connection
) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    try:
        dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size)
        value = function(*args)
        dist.barrier()
        _say(pipe, True, value)
    except BaseException:
        _say(pipe, False, traceback.format_exc())
        time.sleep(5)  # the other ranks are ended by the parent; don't make them fail first


def _say(pipe: Connection, ok: bool, value: Any) -> None:
    # Plain bytes: multiprocessing would lend tensors by file descriptors, which die with the rank.
    pipe.send_bytes(pickle.dumps((ok, value, time.time())))
