"""The engine: one rank's part of the model, its optimizer, and one training step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mcc.core.errors import MccError
from mcc.models.base.family import families
from mcc.models.base.init import initialize
from mcc.models.base.loss import cross_entropy
from mcc.models.base.transformer import Stage
from mcc.train import optim
from mcc.train.compress.codec import Codec
from mcc.train.compress.collective import Collective
from mcc.train.compress.spec import parse_all
from mcc.train.config import TrainConfig
from mcc.train.parallel.gradients import GradSync, clip_, sync_tied
from mcc.train.parallel.mesh import Mesh
from mcc.train.parallel.pipeline import Pipeline
from mcc.train.parallel.tensor import Clock, ParallelAxes


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What one step did. The loss is the mean over all replicas, in nats a token, the same on every rank."""

    loss: float
    grad_norm: float
    lr: float


class Engine:
    """One rank of a training run.

    Args:
        config: the resolved configuration.
        mesh: this rank's place.
    """

    def __init__(self, config: TrainConfig, mesh: Mesh) -> None:
        self.config, self.mesh, self.clock = config, mesh, Clock(config.run.train_iters)
        compress = parse_all(config.compress)
        self.family = families.get(config.model.family)()
        self.axes = ParallelAxes(mesh, compress, self.clock)
        layers = mesh.layers(config.model.num_layers)
        self.module: Stage = self.family.build(config.model, self.axes, layers, mesh.first, mesh.last)
        initialize(self.module, self.family, config.run.seed)
        self.parameters: dict[str, nn.Parameter] = dict(self.module.named_parameters())
        self.optimizer = optim.build(self.parameters, config.optim)
        shape = (config.run.micro_batch_size, config.model.seq_length)
        self.pipeline = Pipeline(
            self.module,
            mesh,
            config.run.microbatches(mesh.dp),
            shape,
            config.parallel.schedule,
            compress,
            self.clock,
            self._loss,
        )
        self.sync = GradSync(self.parameters, mesh, compress, self.clock)
        self.tied = mesh.embedding_sum() if mesh.embedding is not None else None
        self.norm_group = Collective(mesh.model, mesh.tp * mesh.pp, 0, mesh.wire, "norm")

    @property
    def iteration(self) -> int:
        """Optimizer steps taken."""
        return self.clock.step

    @iteration.setter
    def iteration(self, step: int) -> None:
        self.clock.step = step
        optim.set_step(self.optimizer, self.parameters, step)

    def step(self, tokens_NT: Tensor, targets_NT: Tensor) -> StepResult:
        """One optimizer step on this replica's N samples.

        Raises:
            MccError: the loss is not finite.
        """
        rate = optim.learning_rate(self.config.optim, self.clock.step, self.config.run.train_iters)
        optim.set_learning_rate(self.optimizer, rate)
        self.optimizer.zero_grad()
        loss = self._mean(self.pipeline.step(tokens_NT, targets_NT))
        if not math.isfinite(loss):
            raise MccError(f"loss is {loss} at step {self.clock.step + 1}", "lower --lr, or compress less")
        self.sync()
        if self.tied is not None:
            sync_tied(self.parameters, self.tied, self.mesh.dp)
        norm = clip_(self.parameters, self.family, self.mesh, self.norm_group, self.config.optim.clip_grad)
        self.optimizer.step()
        self.clock.step += 1
        return StepResult(loss=loss, grad_norm=norm, lr=rate)

    def evaluate(self, batches: list[tuple[Tensor, Tensor]]) -> float:
        """The mean loss over batches, nothing compressed and nothing counted."""
        self.module.eval()
        with self.axes.dense(), self.mesh.wire.paused():
            losses = [self._mean(self.pipeline.evaluate(tokens, targets)) for tokens, targets in batches]
        self.module.train()
        return sum(losses) / len(losses)

    def codecs(self) -> Mapping[str, Codec]:
        """Every codec in use on this rank, by site and key."""
        found: dict[str, Codec] = dict(self.pipeline.ends)
        for site, streams in (
            ("tp.forward", self.axes.forward.codecs()),
            ("tp.backward", self.axes.backward.codecs()),
            ("dp.grad", self.sync.codecs()),
        ):
            found.update({f"{site}/{key}": codec for key, codec in streams.items()})
        return found

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(logits, targets, self.axes, self.config.model.vocab_size).mean()

    def _mean(self, loss: float) -> float:
        """The mean over the replicas of the last stage's loss, on every rank; control traffic, not counted."""
        total = torch.tensor(loss if self.mesh.last and self.mesh.tp_rank == 0 else 0.0, dtype=torch.float64)
        dist.all_reduce(total)
        return float(total) / self.mesh.dp
