"""Several processes that share a device, and what each of them found."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing

from mcc.train.device import backend, choose


def each(function: Callable[..., Any], size: int, device: str, *args: Any, nccl: bool = False) -> list[Any]:
    """`function(device, *args)` on `size` ranks of a fresh process group; what they returned (JSON), by rank.

    Args:
        function: of a module. It gets this rank's torch.device first.
        size: ranks; they share the GPUs there are.
        device: cpu or cuda.
        nccl: whether NCCL carries messages, which wants a GPU for every rank; else gloo does.
    """
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_rank, (size, folder, device, nccl, function, args), nprocs=size)
        return [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(size)]


def _rank(
    rank: int, size: int, folder: str, device: str, nccl: bool, function: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // size))
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    here = choose(device, rank)
    if here.type == "cuda":
        torch.cuda.set_device(here)
    dist.init_process_group(
        backend(here, own=nccl), init_method=f"file://{folder}/meeting", rank=rank, world_size=size
    )  # fmt: skip
    Path(folder, f"{rank}.json").write_text(json.dumps(function(here, *args)))
    dist.barrier()
    dist.destroy_process_group()
