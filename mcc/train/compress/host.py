"""Tensors on a GPU that gloo carries: they pass through page-locked host memory.

So several ranks can share one GPU, which NCCL refuses; and machines without NCCL's network work too.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def carrier(device: str, group: dist.ProcessGroup | None) -> str:
    """The backend that carries `group`'s tensors on devices of a type: a group may have one for each.

    `dist.get_backend` gives the whole list, such as "cpu:gloo,cuda:nccl", where there are several.
    """
    found = dict(entry.split(":") for entry in dist.get_backend_config(group).split(","))
    return str(found.get(device, ""))


def staged(x: Tensor, group: dist.ProcessGroup | None) -> bool:
    """Whether `group` cannot carry x from where it is."""
    return x.is_cuda and carrier("cuda", group) == "gloo"


def empty(shape: tuple[int, ...] | torch.Size, dtype: torch.dtype) -> Tensor:
    """Host memory that a GPU copies to and from at full speed."""
    return torch.empty(shape, dtype=dtype, pin_memory=torch.cuda.is_available())


def to_host(x: Tensor) -> Tensor:
    """A contiguous copy of x in such memory, complete on return."""
    found = empty(x.shape, x.dtype)
    found.copy_(x)
    return found


def landing(x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """Where `group` can put what x is to receive: x itself, or memory of its shape on the host."""
    return empty(x.shape, x.dtype) if staged(x, group) else x


def carried(x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """x itself, contiguous, or its copy on the host: what `group` can carry."""
    return to_host(x) if staged(x, group) else x.contiguous()
