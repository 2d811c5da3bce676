"""This process among those that score together: replicas of a model, each cut in tensor and pipeline parallelism.

Rank 0 leads: it makes the requests and hands them out; the others serve. Ranks are numbered replica x stage x shard,
shards fastest: the chattiest axis stays on one machine.

    B batch   T tokens   D hidden size
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from mcc.ckpt.source import Layout
from mcc.core.errors import UsageError
from mcc.core.ranks import Ranks, from_environment
from mcc.models.base.axes import Axes
from mcc.models.base.config import ModelConfig

Item = TypeVar("Item")
Result = TypeVar("Result")
# The launcher of this package tells the ranks of one machine where to meet; other launchers set MASTER_ADDR.
RENDEZVOUS = "MCC_EVAL_RENDEZVOUS"
_PATIENCE = timedelta(minutes=30)


class ShardedAxes(Axes):
    """Tensor parallelism without training: sums over the ranks of one stage.

    Args:
        rank, size: this shard, of how many.
        group: its ranks.
        through_host: whether messages are carried through the host's memory: ranks that share a GPU.

    Attributes:
        total: sums a layer's output, with its place in the model, in the place of a plain sum: through a codec.
    """

    def __init__(self, rank: int, size: int, group: Any, through_host: bool = False) -> None:
        self.rank, self.size, self.group, self.through_host = rank, size, group, through_host
        self.total: Callable[[Tensor, str], Tensor] | None = None

    def leave(self, x: Tensor, key: str) -> Tensor:
        return self._reduce(x, dist.ReduceOp.SUM) if self.total is None else self.total(x, key)

    def sum_vocab(self, x: Tensor) -> Tensor:
        return self._reduce(x, dist.ReduceOp.SUM)

    def sum_(self, x: Tensor) -> Tensor:
        return self._reduce(x, dist.ReduceOp.SUM)

    def max_(self, x: Tensor) -> Tensor:
        return self._reduce(x, dist.ReduceOp.MAX)

    def _reduce(self, x: Tensor, how: Any) -> Tensor:
        if self.size == 1:
            return x
        if not self.through_host:
            x = x.contiguous()
            dist.all_reduce(x, how, group=self.group)
            return x
        there = x.cpu()
        dist.all_reduce(there, how, group=self.group)
        return x.copy_(there)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where this rank stands, and how it speaks to the others.

    Attributes:
        rank, world: of all ranks.
        layout: how each replica of the model is cut, and how many replicas there are.
        replica, stage: of this rank.
        axes: its tensor parallelism.
        device: where it computes.
        control: a group for what is no tensor; None: this rank is alone.
        model: the ranks of this replica; None where it is one.
        through_host: see `ShardedAxes`.
    """

    rank: int = 0
    world: int = 1
    layout: Layout = field(default_factory=Layout)
    replica: int = 0
    stage: int = 0
    axes: Axes = field(default_factory=Axes)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    control: Any = None
    model: Any = None
    through_host: bool = False

    @property
    def leads(self) -> bool:
        """Whether this is the rank that makes requests and keeps results."""
        return self.rank == 0

    def layers(self, config: ModelConfig) -> range:
        """The layers of this rank's stage; the first stages take what is left over.

        Raises:
            UsageError: there are more stages than layers.
        """
        stages, count = self.layout.pp, config.num_layers
        if count < stages:
            raise UsageError(f"pp = {stages} is more than num_layers = {count}", "every stage holds a layer")
        share, rest = divmod(count, stages)
        start = self.stage * share + min(self.stage, rest)
        return range(start, start + share + (self.stage < rest))

    def whole_vocabulary(self, logits_NV: Tensor) -> Tensor:
        """The logits of all shards of the last stage beside each other [N, V], on each of them."""
        if self.axes.size == 1:
            return logits_NV
        mine = logits_NV.cpu() if self.through_host else logits_NV.contiguous()
        parts = [torch.empty_like(mine) for _ in range(self.axes.size)]
        dist.all_gather(parts, mine, group=self.axes.group)  # type: ignore[attr-defined]
        return torch.cat(parts, -1).to(logits_NV.device)

    def agree(self, chosen: Tensor | None, shape: tuple[int, ...]) -> Tensor:
        """What the last stage's first shard chose, on every rank of its replica: float64 of `shape`, on the CPU.

        Args:
            chosen: on that rank.
            shape: of it; every rank knows.
        """
        told = torch.empty(shape, dtype=torch.float64) if chosen is None else chosen.cpu()
        if self.model is not None:
            source = (self.replica * self.layout.pp + self.layout.pp - 1) * self.layout.tp
            dist.broadcast(told, source, group=self.model)
        return told

    def send(self, x_BTD: Tensor) -> Any:
        """Hidden states to the next stage; a handle to wait for, which keeps them."""
        x = x_BTD.cpu() if self.through_host else x_BTD.contiguous()
        return dist.isend(x, self.rank + self.layout.tp), x

    def receive(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Hidden states of the stage before."""
        x = torch.empty(shape, dtype=dtype, device="cpu" if self.through_host else self.device)
        dist.recv(x, self.rank - self.layout.tp)
        return x.to(self.device)

    def gather(self, value: Item) -> list[Item]:
        """Every rank's value, in order of rank. Collective."""
        if self.control is None:
            return [value]
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, value, self.control)
        return found

    def share(
        self, command: str, items: Sequence[Item], work: Callable[[str, Sequence[Item]], Sequence[Result]]
    ) -> list[Result]:
        """What `work(command, items)` gives, in order, each replica doing its share. On the leader; the others `serve`.

        Args:
            command, items: handed to `work` on every rank of every replica; an item's results are one.
            work: as given to `serve`; what it returns counts on the last stage's first shard.
        """
        if self.control is None:
            return list(work(command, items))
        dist.broadcast_object_list([(command, list(items))], 0, self.control)
        return self._do(command, items, work)

    def serve(self, work: Callable[[str, Sequence[Any]], Sequence[Any]]) -> None:
        """Do what the leader shares until it calls `end`."""
        while True:
            told: list[Any] = [None]
            dist.broadcast_object_list(told, 0, self.control)
            if told[0] is None:
                return
            command, items = told[0]
            self._do(command, items, work)

    def end(self) -> None:
        """The leader's last word: those who serve return."""
        if self.control is not None:
            dist.broadcast_object_list([None], 0, self.control)

    def _do(self, command: str, items: Sequence[Any], work: Callable[[str, Sequence[Any]], Sequence[Any]]) -> list[Any]:
        replicas = self.layout.dp
        found = work(command, items[self.replica :: replicas])
        speaks = self.stage == self.layout.pp - 1 and self.axes.rank == 0
        told: list[Any] | None = [None] * self.world if self.leads else None
        dist.gather_object((self.replica, list(found)) if speaks else None, told, 0, self.control)
        if told is None:
            return []
        parts = {part[0]: iter(part[1]) for part in told if part is not None}
        return [next(parts[index % replicas]) for index in range(len(items))]


def join(layout: Layout | None = None, device: torch.device | None = None) -> Place:
    """This rank's place; brings the process group up where a launcher started several ranks. Collective.

    Args:
        layout: tensor- and pipeline-parallel sizes of a replica; as many replicas as the ranks allow.
        device: where to compute; with several GPUs each rank takes its own.

    Raises:
        UsageError: the layout does not fit the number of ranks.
    """
    layout, device = layout or Layout(), device or torch.device("cpu")
    ranks = from_environment() or Ranks()
    model = layout.tp * layout.pp
    if layout.tp < 1 or layout.pp < 1 or ranks.world_size % model:
        raise UsageError(
            f"{ranks.world_size} ranks cannot hold a model cut in tp = {layout.tp} x pp = {layout.pp}",
            f"start a multiple of {model} ranks: --nproc {max(1, model)}",
        )
    if ranks.world_size == 1:
        return Place(device=device)
    shared = False
    if device.type == "cuda":
        device = torch.device("cuda", ranks.local_rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
        shared = torch.cuda.device_count() < ranks.local_world_size
    meet = os.environ.get(RENDEZVOUS)
    if not dist.is_initialized():
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" and not shared else "gloo",
            init_method=meet or "env://",
            rank=ranks.rank,
            world_size=ranks.world_size,
            timeout=_PATIENCE,
        )
    control = dist.new_group(backend="gloo", timeout=_PATIENCE)
    replicas = ranks.world_size // model
    rest, shard = divmod(ranks.rank, layout.tp)
    replica, stage = divmod(rest, layout.pp)
    mine = None
    for first in range(0, ranks.world_size, layout.tp):  # every rank makes every group, in the same order
        group = dist.new_group(list(range(first, first + layout.tp))) if layout.tp > 1 else None
        mine = group if first == ranks.rank - shard else mine
    together = None
    for first in range(0, ranks.world_size, model):
        group = dist.new_group(list(range(first, first + model))) if model > 1 else None
        together = group if first == replica * model else together
    return Place(
        rank=ranks.rank,
        world=ranks.world_size,
        layout=Layout(tp=layout.tp, pp=layout.pp, dp=replicas),
        replica=replica,
        stage=stage,
        axes=ShardedAxes(shard, layout.tp, mine, shared),
        device=device,
        control=control,
        model=together,
        through_host=shared,
    )
