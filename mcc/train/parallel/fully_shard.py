"""Parameters, gradients and optimizer state all sharded over the replicas by torch's `fully_shard` (FSDP2; ZeRO-3,
Rajbhandari et al., arXiv 1910.02054, section 5.3): each layer is gathered when it is needed.

torch keeps the parameters as DTensors over the replicas. Here each is seen as the plain rows that this replica holds,
so that clipping, the optimizer and checkpoints treat them as they treat ZeRO-1's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from mcc.core.errors import UsageError
from mcc.models.base.transformer import Stage
from mcc.train.compress import host
from mcc.train.compress.collective import Collective
from mcc.train.config import TrainConfig
from mcc.train.parallel.mesh import Mesh
from mcc.train.parallel.pipeline import SCHEDULES
from mcc.train.parallel.tied import copies

# torch 2.13 has new names for them.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class FullyShard:
    """This rank's stages, sharded over its replicas from now on.

    Args:
        stages: initialised modules.
        mesh: this rank's place. Collective: every rank makes one.
        ends: the pipeline ranks with the first and the last stage.

    Raises:
        UsageError: the ranks are on GPUs, but not joined by NCCL.

    Attributes:
        owned: the rows that this replica holds, by global name; views, and empty where there are too few rows.
        tied: joins the two copies of a tied embedding's rows, or None where this rank has the only one, or none.
    """

    def __init__(self, stages: Iterable[Stage], mesh: Mesh, ends: Sequence[int]) -> None:
        self.gradients = mesh.replicas_sum("dp.grad")
        gather, scatter = _AllGather(mesh.replicas_sum("dp.param")), _ReduceScatter(self.gradients)
        stages = list(stages)
        device = next(stages[0].parameters()).device.type
        if device == "cuda" and host.carrier(device, mesh.replicas) != "nccl":
            raise UsageError("--fully-shard on GPUs needs NCCL, which wants a GPU for every rank", "--zero 1")
        replicas = DeviceMesh.from_group(mesh.replicas, device, mesh_dim_names=("replicas",))
        self.sharded: dict[str, Any] = {}
        for stage in stages:
            for module in (*stage.layers.values(), stage):
                wrapped: Any = fully_shard(module, mesh=replicas)
                if hasattr(wrapped, "set_custom_all_gather"):
                    wrapped.set_custom_all_gather(gather)
                    wrapped.set_custom_reduce_scatter(scatter)
            self.sharded.update(stage.named_parameters())
        self.owned = {name: nn.Parameter(p.to_local().detach()) for name, p in self.sharded.items()}
        self.tied = copies(mesh, ends)

    def rows(self, name: str) -> tuple[int, int]:
        """(first, last + 1) of the rows of a parameter that this replica holds."""
        count = self.sharded[name].shape[0]
        share = -(-count // self.gradients.size)
        first = min(count, self.gradients.rank * share)
        return first, min(count, first + share)

    def count(self, name: str) -> int:
        """Rows of a parameter here, over all replicas."""
        return int(self.sharded[name].shape[0])

    def take(self) -> None:
        """Give the owned rows their gradients, which are means over the replicas since the backward pass."""
        for name, owned in self.owned.items():
            sharded = self.sharded[name]
            assert sharded.to_local().data_ptr() == owned.data_ptr(), f"torch moved {name}"
            owned.grad = None if sharded.grad is None else sharded.grad.to_local()

    def zero_grad(self) -> None:
        """Forget the last step's gradients."""
        for parameter in (*self.sharded.values(), *self.owned.values()):
            parameter.grad = None


class _Counted:
    """A collective of `fully_shard`, counted. torch allocates through it."""

    def __init__(self, group: Collective) -> None:
        self.group = group

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)


class _AllGather(_Counted):
    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: dist.ProcessGroup, async_op: bool = False
    ) -> dist.Work | None:
        self.group.wire.add(self.group.site, (self.group.size - 1) * input_tensor.nbytes)
        return _all_gather(output_tensor, input_tensor, group=group, async_op=async_op)


class _ReduceScatter(_Counted):
    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: dist.ProcessGroup, op: Any, async_op: bool = False
    ) -> dist.Work | None:
        self.group.wire.add(self.group.site, (self.group.size - 1) * output_tensor.nbytes)
        return _reduce_scatter(output_tensor, input_tensor, op=op, group=group, async_op=async_op)


def check_fully_shard(config: TrainConfig) -> None:
    """Refuse what does not go together with `--fully-shard`.

    Raises:
        UsageError: another sharding, a codec of gradients, or a schedule that splits the backward pass.
    """
    parallel = config.parallel
    if not parallel.fully_shard:
        return
    if parallel.zero:
        raise UsageError(f"--fully-shard shards all that --zero {parallel.zero} does, and more", "give one of them")
    if any(text.startswith("dp.grad=") for text in config.compress):
        raise UsageError(
            "--compress dp.grad needs whole gradients, but --fully-shard reduces them in the backward pass", "--zero 1"
        )
    if parallel.pp > 1 and SCHEDULES[parallel.schedule].splits:
        raise UsageError(
            f"schedule {parallel.schedule} computes the gradients of weights apart, which fully_shard does not notice",
            "--schedule 1f1b, or --zero 1",
        )
