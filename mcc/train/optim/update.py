"""From the gradients that this rank accumulated to the next parameters: one call a step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mcc.core.errors import MccError, UsageError
from mcc.models.base.family import Family
from mcc.train.compress.collective import Collective
from mcc.train.compress.spec import CodecSpec
from mcc.train.config import TrainConfig
from mcc.train.optim import optimizers
from mcc.train.optim.momentum import CompressedMomentum
from mcc.train.optim.scaler import LossScale
from mcc.train.parallel.fully_shard import FullyShard
from mcc.train.parallel.gradients import clip_
from mcc.train.parallel.mesh import Mesh
from mcc.train.parallel.tensor import Clock
from mcc.train.parallel.zero import Zero


class Update:
    """The optimizer of one rank, with what surrounds it: unscaling, clipping by the true global norm, and ZeRO.

    Args:
        parameters: this rank's, by name; with ZeRO it updates some rows of each.
        family: tells which parameters are sharded.
        mesh: this rank's place.
        config: the run's.
        first: whether this rank has the first stage, whose copy of a tied embedding counts in the norm.
        full: what `fully_shard` made of the stages, if it did; `parameters` are then the rows that it left here.
        zero: which rows are whose with ZeRO-1, else None.
        momentum: the codec of `dp.grad` and the engine's clock, where replicas send their momentum.

    Attributes:
        updated: what the optimizer works on, by name.
        scaler: of fp16, else None.
        count: updates made; steps without the skipped ones.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        family: Family,
        mesh: Mesh,
        config: TrainConfig,
        first: bool,
        full: FullyShard | None = None,
        zero: Zero | None = None,
        momentum: tuple[CodecSpec, Clock] | None = None,
    ) -> None:
        self.parameters, self.family, self.mesh, self.config, self.first = parameters, family, mesh, config.optim, first
        self.full, self.zero = full, zero
        self.updated: Mapping[str, nn.Parameter] = parameters
        # Replicas agree on the gradients, unless each has rows of its own.
        group, size = mesh.model, mesh.tp * mesh.pp
        if zero is not None:
            self.updated = zero.owned
        if self.full is not None:
            self.updated = {name: rows for name, rows in parameters.items() if len(rows)}
        if self.zero is not None or self.full is not None:
            group, size = dist.group.WORLD, dist.get_world_size()
        self.norm_group = Collective(group, size, 0, mesh.wire, "norm")
        self.world = Collective(dist.group.WORLD, dist.get_world_size(), 0, mesh.wire, "norm")
        self.optimizer = optimizers.build(self.updated, self.config)
        self.momentum: CompressedMomentum | None = None
        if momentum is not None and mesh.dp * mesh.cp > 1:
            self.momentum = CompressedMomentum(self.optimizer, self.updated, self.config, *momentum)
        self.scaler = LossScale.start(self.config) if config.run.precision == "fp16" else None
        self.count = 0

    @property
    def scale(self) -> float:
        """What the loss is multiplied by before the backward pass."""
        return self.scaler.scale if self.scaler else 1.0

    def zero_grad(self) -> None:
        """Forget the last step's gradients."""
        for parameter in (*self.parameters.values(), *self.updated.values()):
            parameter.grad = None
        if self.full is not None:
            self.full.zero_grad()

    @torch.no_grad()
    def __call__(self, rate: float, complete: Callable[[], None], average: Callable[[], None]) -> float | None:
        """Update the parameters; the gradients' global norm before clipping, or None where the step was skipped.

        Args:
            rate: the learning rate.
            complete: adds what other ranks have of this replica's gradients, and keeps tied parameters' the same.
            average: makes gradients, or with ZeRO those of the owned rows, the mean over the replicas.

        Raises:
            MccError: gradients are not finite, and no loss scale is to blame or can be lowered.
        """
        if self.full is not None:
            self.full.take()
        if self.scaler is not None and self._overflowed(self.scaler):
            self.scaler.update(overflow=True)
            return None
        recorder = self.mesh.wire.recorder
        momentum = self.momentum if self.momentum is not None and self.momentum.active else None
        with recorder.span("reduce", what="gradients"):
            complete()
            if momentum is None:
                average()
            if self.zero is not None:
                self.zero.take()
        with recorder.span("optimizer", what="clip"):
            # Replicas that differ in their gradients agree on the root of the mean square of their norms.
            group, replicas = self.norm_group, 1
            if momentum is not None:
                group, replicas = self.world, self.mesh.dp * self.mesh.cp
            norm = clip_(self.updated, self.family, self.mesh, group, self.config.clip_grad, self.first, replicas)
        if not math.isfinite(norm):
            raise MccError(f"the gradients' norm is {norm} after {self.count} updates", "lower --lr, or compress less")
        optimizers.set_learning_rate(self.optimizer, rate)
        if momentum is not None:
            momentum.mix(self.count)
            with recorder.span("reduce", what="momentum"):
                average()
            with recorder.span("optimizer"):
                momentum.step(self.count)
        else:
            with recorder.span("optimizer"):
                self.optimizer.step()
        if self.zero is not None:
            with recorder.span("reduce", what="parameters"):
                self.zero.gather()
        if self.scaler is not None:
            self.scaler.update(overflow=False)
        self.count += 1
        return norm

    def moments(self) -> dict[str, dict[str, Tensor]]:
        """What the optimizer remembers, by slot and name: of whole parameters, or with ZeRO of owned rows."""
        return optimizers.moments(self.optimizer, self.updated, self.config)

    def weights(self) -> Mapping[str, tuple[Tensor, tuple[int, int] | None]]:
        """The exact parameters, or rows of them, with (first, of how many) rows they are; None: all."""
        if self.zero is not None and self.zero.apart:
            return {name: (owned.data, self.rows(name)) for name, owned in self.zero.owned.items()}
        return {name: (parameter.data, self.held(name)) for name, parameter in self.parameters.items()}

    def rows(self, name: str) -> tuple[int, int] | None:
        """(first, of how many) rows of a parameter that `moments` is of; None: of all."""
        if self.zero is not None:
            return self.zero.rows(name)[0], self.parameters[name].shape[0]
        return self.held(name)

    def held(self, name: str) -> tuple[int, int] | None:
        """(first, of how many) rows of a parameter that this rank holds; None: all."""
        return None if self.full is None else (self.full.rows(name)[0], self.full.count(name))

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        scaler = self.scaler.state() if self.scaler else None
        state = {"name": self.config.optimizer, "updates": self.count, "loss_scale": scaler}
        return state | ({"frozen": self.momentum.frozen} if self.momentum is not None else {})

    def restore(self, state: Mapping[str, Any] | None, iteration: int) -> None:
        """Continue after `iteration` steps; `state` as `state` gave it, or None where nothing else is known.

        Raises:
            UsageError: the checkpoint is of another optimizer.
        """
        state = state or {}
        if state.get("name", self.config.optimizer) != self.config.optimizer:
            raise UsageError(
                f"the checkpoint has the state of --optimizer {state['name']}, but the run has {self.config.optimizer}",
                "--load begins anew with its weights alone",
            )
        self.count = int(state.get("updates", iteration))
        optimizers.set_updates(self.optimizer, self.updated, self.config, self.count)
        if self.momentum is not None:
            self.momentum.frozen = state.get("frozen")
        if self.scaler is not None and state.get("loss_scale"):
            self.scaler.restore(state["loss_scale"])

    def _overflowed(self, scaler: LossScale) -> bool:
        """Divide the gradients by the loss scale; whether any of any rank is not finite."""
        found = torch.zeros(1, device=next(iter(self.parameters.values())).device)
        for parameter in self.parameters.values():
            if parameter.grad is not None:
                parameter.grad.mul_(1 / scaler.scale)
                found += (~parameter.grad.isfinite().all()).to(found)
        return bool(self.world.max_(found) > 0)
