"""Where a rank computes, and what carries its messages."""

from __future__ import annotations

import torch

from mcc.core.errors import UsageError


def choose(wanted: str, local_rank: int) -> torch.device:
    """The device of a rank: a GPU of its machine, shared where there are more ranks than GPUs, or the CPU.

    Args:
        wanted: `auto` (a GPU where there is one), `cpu` or `cuda`.
        local_rank: of the ranks on this machine.

    Raises:
        UsageError: there is no GPU.
    """
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "cuda" and not found:
        raise UsageError("--device cuda, but torch sees no GPU", "--device cpu, or a CUDA build of torch")
    if wanted == "cpu" or not found:
        return torch.device("cpu")
    return torch.device("cuda", local_rank % found)


def backend(device: torch.device, local_world: int) -> str:
    """The process group's backend: NCCL for GPUs of their own beside gloo for the host's tensors; else gloo, which
    carries a shared GPU's tensors through host memory (`mcc.train.compress.host`)."""
    own = device.type == "cuda" and local_world <= torch.cuda.device_count()
    return "cpu:gloo,cuda:nccl" if own else "gloo"
