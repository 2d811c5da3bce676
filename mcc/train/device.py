"""Where a rank computes, and what carries its messages."""

from __future__ import annotations

import torch
import torch.distributed as dist

from mcc.core.errors import MccError, UsageError


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


def backend(device: torch.device, own: bool) -> str:
    """The process group's backend: NCCL for GPUs of their own beside gloo for the host's tensors; else gloo, which
    carries a shared GPU's tensors through host memory (`mcc.train.compress.host`)."""
    return "cpu:gloo,cuda:nccl" if device.type == "cuda" and own else "gloo"


def own_devices(device: torch.device, rank: int, world: int, store: dist.Store) -> bool:
    """Whether every rank has a GPU for itself, so that all choose one backend. Collective, before the process group.

    GPUs are told apart by their identifier: where a launcher shows each rank one GPU alone, all are number 0.

    Raises:
        MccError: some ranks have a GPU, others none.
    """
    mine = str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else ""
    store.set(f"device/{rank}", mine)
    found = [told.decode() for told in store.multi_get([f"device/{other}" for other in range(world)])]
    if "" in found and any(found):
        without = [str(other) for other, told in enumerate(found) if not told]
        raise MccError(
            f"no GPU for rank {', '.join(without[:8])}{', ...' if without[8:] else ''} of {world}; the others have one",
            "see `mcc doctor` on that machine; or --device cpu",
        )
    return any(found) and len(set(found)) == world
