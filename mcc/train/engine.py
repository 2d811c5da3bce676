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
from mcc.train.compress.codec import Codec, TensorSpec
from mcc.train.compress.collective import Collective
from mcc.train.compress.spec import parse_all
from mcc.train.config import TrainConfig
from mcc.train.optim import optimizers
from mcc.train.optim.batch_size import BatchSizes
from mcc.train.optim.schedule import LearningRate
from mcc.train.parallel.gradients import GradSync, clip_, sync_tied
from mcc.train.parallel.mesh import Mesh, build_mesh
from mcc.train.parallel.pipeline import SCHEDULES, Pipeline
from mcc.train.parallel.stages import Stages, cut
from mcc.train.parallel.tensor import Clock, ParallelAxes

# Tensors of a replica's samples by name: "tokens" [N, T], "targets" [N, T], and what the objective looks at.
Batch = dict[str, Tensor]


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
        self.stages = stages_of(config)
        self.modules: dict[int, Stage] = {
            index: self.family.build(
                config.model, self.axes, self.stages.layers[index], index == 0, index == self.stages.last
            )
            for index in self.stages.held_by(mesh.pp_rank)
        }
        self.parameters: dict[str, nn.Parameter] = {}
        for module in self.modules.values():
            self._take(module)
        self.optimizer = optimizers.build(self.parameters, config.optim)
        self.rate = LearningRate(config.optim, BatchSizes(config.run.global_batch_size), config.run.train_iters)
        samples, tokens = config.run.micro_batch_size, config.model.seq_length
        self.pipeline = Pipeline(
            self.modules,
            self.stages,
            mesh,
            config.parallel.schedule,
            compress,
            self.clock,
            self._run,
            (samples, tokens),
            TensorSpec((samples, tokens, config.model.hidden_size), torch.float32),
        )
        self.sync = GradSync(self.parameters, mesh, compress, self.clock)
        self.tied = mesh.embedding_sum() if mesh.embedding is not None else None
        self.norm_group = Collective(mesh.model, mesh.tp * mesh.pp, 0, mesh.wire, "norm")
        self._work = Work([], 0.0)

    def _take(self, module: Stage) -> None:
        """Initialise a stage and take its parameters; a tied embedding that this rank has already is shared."""
        initialize(module, self.family, self.config.run.seed)
        for name, parameter in module.named_parameters():
            if name in self.parameters:
                owner, _, leaf = name.rpartition(".")
                setattr(module.get_submodule(owner), leaf, self.parameters[name])
            else:
                self.parameters[name] = parameter

    @property
    def iteration(self) -> int:
        """Optimizer steps taken."""
        return self.clock.step

    @iteration.setter
    def iteration(self, step: int) -> None:
        self.clock.step = step
        optimizers.set_updates(self.optimizer, self.parameters, self.config.optim, step)

    def step(self, batch: Batch) -> StepResult:
        """One optimizer step on this replica's samples.

        Raises:
            MccError: the loss is not finite.
        """
        rate = self.rate(self.clock.step)
        optimizers.set_learning_rate(self.optimizer, rate)
        self.optimizer.zero_grad()
        self._begin(batch)
        loss = self._mean(self.pipeline.step(batch["tokens"], len(self._work.microbatches)))
        if not math.isfinite(loss):
            raise MccError(f"loss is {loss} at step {self.clock.step + 1}", "lower --lr, or compress less")
        self.sync()
        if self.tied is not None:
            sync_tied(self.parameters, self.tied, self.mesh.dp * self.mesh.cp)
        norm = clip_(
            self.parameters, self.family, self.mesh, self.norm_group, self.config.optim.clip_grad, self.pipeline.first
        )
        self.optimizer.step()
        self.clock.step += 1
        return StepResult(loss=loss, grad_norm=norm, lr=rate)

    def evaluate(self, batches: list[Batch]) -> float:
        """The mean loss over batches, nothing compressed and nothing counted."""
        for module in self.modules.values():
            module.eval()
        total = weight = 0.0
        with self.axes.dense(), self.mesh.wire.paused():
            for batch in batches:
                self._begin(batch)
                self.pipeline.evaluate(batch["tokens"], len(self._work.microbatches))
                share = self.mesh.dp * self.mesh.cp / self._work.scale
                total += self._mean(self._work.loss) * share
                weight += share
        for module in self.modules.values():
            module.train()
        return total / weight

    def codecs(self) -> Mapping[str, Codec]:
        """Every codec in use on this rank, by site and key."""
        found: dict[str, Codec] = self.pipeline.codecs()
        for site, streams in (
            ("tp.forward", self.axes.forward.codecs()),
            ("tp.backward", self.axes.backward.codecs()),
            ("dp.grad", self.sync.codecs()),
        ):
            found.update({f"{site}/{key}": codec for key, codec in streams.items()})
        return found

    def _begin(self, batch: Batch) -> None:
        """Cut a replica's batch into micro-batches, and weigh them against all replicas'."""
        count = batch["tokens"].shape[0] // self.config.run.micro_batch_size
        parts = {name: tensor.chunk(count) for name, tensor in batch.items()}
        weight = torch.tensor(float(batch["targets"].numel()), dtype=torch.float64)
        dist.all_reduce(weight, group=self.mesh.replicas)
        replicas = self.mesh.dp * self.mesh.cp
        microbatches = [{name: parts[name][i] for name in parts} for i in range(count)]
        self._work = Work(microbatches, replicas / float(weight))

    def _run(self, microbatch: int, index: int, x: Tensor) -> Tensor:
        """A stage on a micro-batch: its hidden states, or of the last stage its share of the replicas' mean loss."""
        batch = self._work.microbatches[microbatch]
        out = self.modules[index](x)
        if index != self.stages.last:
            return out
        losses = cross_entropy(out, batch["targets"], self.axes, self.config.model.vocab_size)
        loss = losses.sum() * self._work.scale
        self._work.loss += loss.item()
        return loss

    def _mean(self, loss: float) -> float:
        """The mean over the replicas of the last stage's loss, on every rank; control traffic, not counted."""
        mine = self.pipeline.last and self.mesh.tp_rank == 0
        total = torch.tensor(loss if mine else 0.0, dtype=torch.float64)
        dist.all_reduce(total)
        return float(total) / (self.mesh.dp * self.mesh.cp)


@dataclass
class Work:
    """A step's micro-batches under way.

    Attributes:
        microbatches: this replica's.
        scale: turns a sum of losses into its share of the replicas' mean loss.
        loss: the shares of the micro-batches that were run, on the last stage.
    """

    microbatches: list[Batch]
    scale: float
    loss: float = 0.0


def stages_of(config: TrainConfig) -> Stages:
    """How the configuration cuts its model into stages.

    Raises:
        UsageError: the layers do not fit.
    """
    parallel = config.parallel
    v = SCHEDULES[parallel.schedule].v
    return cut(config.model, parallel.pp, parallel.vpp, v, parallel.stages)


def make_mesh(config: TrainConfig) -> Mesh:
    """The mesh of the configuration over the default process group. Collective."""
    parallel = config.parallel
    dp = parallel.replicas(dist.get_world_size())
    return build_mesh(parallel.tp, parallel.pp, dp, parallel.cp, stages_of(config).ends)
