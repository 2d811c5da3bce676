"""Process groups for benchmarks: this process alone, or several and what each of them found."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing


@contextmanager
def joined(folder: str, rank: int = 0, size: int = 1) -> Iterator[None]:
    """Within the block this process is a rank of a gloo group, which meets in a file of `folder`."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    yield
    dist.destroy_process_group()


@contextmanager
def alone() -> Iterator[None]:
    """Within the block this process is a group of one."""
    with tempfile.TemporaryDirectory() as folder, joined(folder):
        yield


def each(function: Callable[..., Any], size: int, *args: Any) -> list[Any]:
    """What `function(*args)`, of a module, returns (JSON) on each of `size` ranks of one thread."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_rank, (size, folder, function, args), nprocs=size)
        return [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(size)]


def _rank(rank: int, size: int, folder: str, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    with joined(folder, rank, size):
        Path(folder, f"{rank}.json").write_text(json.dumps(function(*args)))
        dist.barrier()
