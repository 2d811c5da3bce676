"""Parameters, gradients and optimizer state all sharded over the replicas by torch's `fully_shard` (FSDP2; ZeRO-3,
Rajbhandari et al., arXiv 1910.02054, section 5.3): each layer is gathered when it is needed.

torch keeps the parameters as DTensors over the replicas. Here each is seen as the plain rows that this replica holds,
so that clipping, the optimizer and checkpoints treat them as they treat ZeRO-1's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from mcc.core.errors import UsageError
from mcc.models.base.transformer import Stage
from mcc.train.compress import host
from mcc.train.compress.codec import Codec
from mcc.train.compress.collective import Collective
from mcc.train.compress.spec import CodecSpec, parse_all
from mcc.train.config import TrainConfig
from mcc.train.parallel.flat import FlatGather, FlatScatter, segments
from mcc.train.parallel.mesh import Mesh
from mcc.train.parallel.pipeline import SCHEDULES
from mcc.train.parallel.tensor import Clock
from mcc.train.parallel.tied import copies

# torch 2.13 has new names for them.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class FullyShard:
    """This rank's stages, sharded over its replicas from now on.

    Args:
        stages: initialised modules, by index.
        mesh: this rank's place. Collective: every rank makes one.
        ends: the pipeline ranks with the first and the last stage.
        compress: the codec of each site; those of `zero.grads` and `zero.weights` are used here.
        clock: the engine's.
        kinds: see `mcc.train.parallel.flat.kinds`.
        dense: whether weights are to be gathered as they are now: in evaluation.

    Raises:
        UsageError: the ranks are on GPUs, but not joined by NCCL.

    Attributes:
        owned: the rows that this replica holds, by global name; views, and empty where there are too few rows.
        tied: joins the two copies of a tied embedding's rows, or None where this rank has the only one, or none.
    """

    def __init__(
        self,
        stages: Mapping[int, Stage],
        mesh: Mesh,
        ends: Sequence[int],
        compress: Mapping[str, CodecSpec],
        clock: Clock,
        kinds: Mapping[str, str],
        dense: Callable[[], bool],
    ) -> None:
        self.gradients, weights = mesh.replicas_sum("zero.grads"), mesh.replicas_sum("zero.weights")
        self.scatter = FlatScatter(compress.get("zero.grads"), self.gradients, clock)
        self.gather = FlatGather(compress.get("zero.weights"), weights, clock)
        self.stages = list(stages.values())
        device = next(self.stages[0].parameters()).device.type
        if device == "cuda" and host.carrier(device, mesh.replicas) != "nccl":
            raise UsageError("--fully-shard on GPUs needs NCCL, which wants a GPU for every rank", "--zero 1")
        replicas = DeviceMesh.from_group(mesh.replicas, device, mesh_dim_names=("replicas",))
        self.sharded: dict[str, Any] = {}
        for index, stage in stages.items():
            wrapped = {f"layer{i}": fully_shard(layer, mesh=replicas) for i, layer in stage.layers.items()}
            wrapped[f"stage{index}"] = fully_shard(stage, mesh=replicas)
            names = {id(parameter): name for name, parameter in stage.named_parameters()}
            for key, module in wrapped.items():
                sizes = {names[id(p.sharded_param)]: p._sharded_param_data.numel() for p in _parameters(module)}
                parts = segments(sizes, kinds)
                module.set_custom_all_gather(_AllGather(weights, self.gather, key, parts, dense))
                module.set_custom_reduce_scatter(_ReduceScatter(self.gradients, self.scatter, key, parts))
            self.sharded.update(stage.named_parameters())
        self.owned = {name: nn.Parameter(p.to_local().detach()) for name, p in self.sharded.items()}
        self.tied = copies(mesh, ends)

    def reshard(self) -> None:
        """Let go of gathered weights: the next forward pass gathers its own."""
        for stage in self.stages:
            module: Any = stage
            module.reshard()

    def codecs(self) -> dict[str, Codec]:
        """Every codec in use, by site and key."""
        sites = {"zero.grads": self.scatter.codecs(), "zero.weights": self.gather.codecs()}
        return {f"{site}/{key}": codec for site, found in sites.items() for key, codec in found.items()}

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


def _parameters(module: Any) -> Iterator[Any]:
    """torch's records of the parameters that it shards with `module`, in the order in which they travel."""
    group = module._get_fsdp_state()._fsdp_param_group
    if group is not None:
        yield from group.fsdp_params


class _Counted:
    """A collective of one module's parameters for `fully_shard`, counted. torch allocates through it.

    Args:
        group: the replicas.
        key: the module.
        parts: where each kind of its parameters stands in a flat piece, see `mcc.train.parallel.flat.segments`.
    """

    def __init__(self, group: Collective, key: str, parts: Mapping[str, list[tuple[int, int]]]) -> None:
        self.group, self.key, self.parts = group, key, parts

    def stream(self, kind: str) -> str:
        """Both copies of a tied embedding are coded alike, whatever stage they are in."""
        return kind if kind == "tied" else self.key + kind

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    def cut(self, flat: Tensor, kind: str) -> Tensor:
        """The elements of one kind, a copy."""
        return torch.cat([flat[start:end] for start, end in self.parts[kind]])

    def put(self, flat: Tensor, kind: str, values: Tensor) -> None:
        """The inverse of `cut`."""
        sizes = [end - start for start, end in self.parts[kind]]
        for (start, end), piece in zip(self.parts[kind], values.split(sizes), strict=True):
            flat[start:end].copy_(piece)


class _AllGather(_Counted):
    def __init__(
        self,
        group: Collective,
        coded: FlatGather,
        key: str,
        parts: Mapping[str, list[tuple[int, int]]],
        dense: Callable[[], bool],
    ) -> None:
        super().__init__(group, key, parts)
        self.coded, self.dense = coded, dense
        for kind, places in parts.items():
            coded.add(self.stream(kind), sum(end - start for start, end in places))

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: dist.ProcessGroup, async_op: bool = False
    ) -> dist.Work | None:
        if self.coded.active and not self.dense():
            for kind in self.parts:
                pieces = self.coded(self.stream(kind), self.cut(input_tensor, kind), dense=False)
                for rows, piece in zip(output_tensor.view(self.group.size, -1), pieces, strict=True):
                    self.put(rows, kind, piece)
            return None
        self.group.wire.add(self.group.site, (self.group.size - 1) * input_tensor.nbytes)
        return _all_gather(output_tensor, input_tensor, group=group, async_op=async_op)


class _ReduceScatter(_Counted):
    def __init__(
        self, group: Collective, coded: FlatScatter, key: str, parts: Mapping[str, list[tuple[int, int]]]
    ) -> None:
        super().__init__(group, key, parts)
        self.coded = coded
        for kind, places in parts.items():
            coded.add(self.stream(kind), sum(end - start for start, end in places))

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: dist.ProcessGroup, op: Any, async_op: bool = False
    ) -> dist.Work | None:
        if self.coded.active:
            assert op in (dist.ReduceOp.SUM, dist.ReduceOp.AVG), f"torch reduces by {op}"
            pieces = input_tensor.view(self.group.size, -1)
            for kind in self.parts:
                total = self.coded(self.stream(kind), [self.cut(piece, kind) for piece in pieces])
                self.put(output_tensor, kind, total)
            if op == dist.ReduceOp.AVG:
                output_tensor.div_(self.group.size)
            return None
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
    compress = parse_all(config.compress)
    if "dp.grad" in compress:
        raise UsageError(
            "--compress dp.grad needs whole gradients, but --fully-shard reduces them in the backward pass",
            "--compress zero.grads, or --zero 1",
        )
    if "zero.weights" in compress and compress["zero.weights"].of == "difference":
        raise UsageError(
            "--compress zero.weights=...,of=difference adds to what replicas hold, but with --fully-shard they hold "
            "nothing",
            "of=weights, or --zero 1",
        )
    train_iters = config.run.train_iters
    late = [site for site, spec in compress.items() if spec.codec.trainable and not spec.active(0, train_iters)]
    if "zero.grads" in compress and late:
        raise UsageError(
            f"--compress zero.grads codes all gradients of a layer, but {late[0]}'s codec has none until it begins",
            "leave out its warmup= or when=, or --zero 1",
        )
    if "zero.grads" in compress and compress["zero.grads"].remembers and config.run.precision == "fp16":
        raise UsageError(
            f"--compress zero.grads={compress['zero.grads'].name} would remember an overflow of --precision fp16 for "
            "good: --fully-shard reduces gradients before it is noticed",
            "--precision bf16, --zero 1, or a codec without memory, such as quantize without feedback",
        )
    if parallel.pp > 1 and SCHEDULES[parallel.schedule].splits:
        raise UsageError(
            f"schedule {parallel.schedule} computes the gradients of weights apart, which fully_shard does not notice",
            "--schedule 1f1b, or --zero 1",
        )
