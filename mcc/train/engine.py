"""The engine: one rank's part of the model, its optimizer, and one training step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mcc.data.training.batch_size import Progress
from mcc.models.base.bottleneck import insert
from mcc.models.base.extras import Extras, Randomness
from mcc.models.base.family import families
from mcc.models.base.init import initialize
from mcc.models.base.transformer import Stage
from mcc.train.batch import Batch, ids_of, on_positions, share, split
from mcc.train.compiled import compile_layers
from mcc.train.compress.codec import Codec, TensorSpec
from mcc.train.compress.spec import CodecSpec, parse_all
from mcc.train.config import TrainConfig
from mcc.train.faults import not_finite
from mcc.train.layout import stages_of
from mcc.train.objective import objective_of, objectives
from mcc.train.optim.schedule import LearningRate
from mcc.train.optim.update import Update
from mcc.train.parallel.flat import kinds as kinds_of
from mcc.train.parallel.fully_shard import FullyShard
from mcc.train.parallel.gradients import TIED, GradSync, coded, sequence_parameters, sync_sequence
from mcc.train.parallel.mesh import CPU, Mesh
from mcc.train.parallel.pipeline import Pipeline
from mcc.train.parallel.places import coded_parameters
from mcc.train.parallel.tensor import Clock, ParallelAxes
from mcc.train.parallel.tied import TiedSync, sums
from mcc.train.parallel.trained import boundary_channels, channels, divided
from mcc.train.parallel.zero import Zero
from mcc.train.sources.source import Evaluation


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What one step did.

    Attributes:
        loss: the mean over all replicas, the same on every rank. parts: what it sums.
        grad_norm: before clipping; None where fp16 overflowed and the update was left out.
        lr: the learning rate.
        loss_scale: of the step, with fp16.
    """

    loss: float
    parts: dict[str, float]
    grad_norm: float | None
    lr: float
    loss_scale: float | None = None

    def line(self) -> dict[str, Any]:
        """Its fields of `metrics.jsonl`."""
        values: dict[str, Any] = {"loss": self.loss, "lr": self.lr, "grad_norm": self.grad_norm}
        if self.loss_scale is not None:
            values["loss_scale"] = self.loss_scale
        return values | (self.parts if len(self.parts) > 1 else {})


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Engine:
    """One rank of a training run.

    Args:
        config: the resolved configuration.
        mesh: this rank's place.
        rows: rows of tokens that a sample has (several choices).
        epoch_samples: samples of one pass over the data; None: not known.
    """

    def __init__(self, config: TrainConfig, mesh: Mesh, rows: int = 1, epoch_samples: int | None = None) -> None:
        self.epoch_samples = epoch_samples
        mesh.wire.verify = config.safety.verify_codecs
        self.config, self.mesh, self.clock = config, mesh, Clock(config.run.train_iters)
        self.trained, compress = divided(parse_all(config.compress))
        self.family = families.get(config.model.family)()
        self.objective = objectives.get(objective_of(config.model))()
        causal = self.family.blueprint.causal
        self.stages = stages_of(config)
        self.axes = ParallelAxes(
            mesh, compress, self.clock, config.parallel.sequence_parallel, zigzag=causal, stages=self.stages
        )
        self.axes.trained = self.trained.get("tp.forward")
        with torch.device("meta"):  # memory is taken once, where the parameters stay
            self.modules: dict[int, Stage] = {
                index: self.family.build(
                    config.model, self.axes, self.stages.layers[index], index == 0, index == self.stages.last
                )
                for index in self.stages.held_by(mesh.pp_rank)
            }
            for index, module in self.modules.items():
                insert(module, self.channels(index))
        self.parameters: dict[str, nn.Parameter] = {}
        for module in self.modules.values():
            self._take(module)
        self.rate = LearningRate(config.optim, config.run.sizes, config.run.train_iters)
        tied = self.family.tied(config.model)
        kinds = kinds_of(self.parameters, self.family, mesh.tp, tied and len(self.stages.ends) > 1)
        self.full: FullyShard | None = None
        if config.parallel.fully_shard and mesh.dp * mesh.cp > 1:
            # Their gradients are reduced before the tensor-parallel ranks add what each has of some of them.
            partial = sequence_parameters(self.parameters, self.family, self.axes.sequence) if mesh.tp > 1 else []
            kinds |= dict.fromkeys(partial, "partial")
            self.full = FullyShard(
                self.modules, mesh, self.stages.ends, compress, self.clock, kinds, lambda: self.axes.compresses_nothing
            )
            self.parameters = self.full.owned
        if config.run.compile:
            compile_layers(self.modules.values(), self.axes, mesh.compute)
        samples, tokens = config.run.micro_batch_size * rows, config.model.seq_length // mesh.cp
        hidden = tokens // mesh.tp if self.axes.sequence else tokens
        self.pipeline = Pipeline(
            self.modules,
            self.stages,
            mesh,
            config.parallel.schedule,
            compress,
            self.clock,
            self._run,
            (samples, tokens),
            TensorSpec((samples, hidden, config.model.hidden_size), self.dtype),
            boundary_channels(self.trained, self.stages),
        )
        zero = config.parallel.zero and mesh.dp * mesh.cp > 1
        own_codec = "embedding" in compress and not compress["embedding"].codec.exact
        dense = coded(compress, mesh) is None and not own_codec
        if zero and len(self.stages.ends) == 1 and dense:
            tied = False  # there is one copy, whose rows have owners as any other's
        elsewhere = [TIED] if tied else []
        self.zero = Zero(self.parameters, mesh, compress, self.clock, kinds, elsewhere) if zero else None
        gradients = compress.get("dp.grad")
        momentum = (gradients, self.clock) if gradients is not None and gradients.of == "momentum" else None
        self.update = Update(
            self.parameters, self.family, mesh, config, self.pipeline.first, self.full, self.zero, momentum
        )
        alike = [name for name in self.parameters if self.family.row(name).tp_dim is None]
        selects = coded_parameters(compress.get("dp.grad"), self.stages, self.family)
        self.sync = GradSync(self.parameters, mesh, compress, self.clock, tied, self.zero, alike, selects)
        self.tied = self._tied_sync(compress) if tied else None
        self.partial = sequence_parameters(self.parameters, self.family, self.axes.sequence)
        for codec in self.pipeline.codecs().values():
            codec.folder = Path(config.run.save) if config.run.save else None
        self._work = Work([], torch.zeros(1), None)

    def _take(self, module: Stage) -> None:
        """Initialise a stage and take its parameters; a tied embedding that this rank has already is shared."""
        initialize(module, self.family, self.config.run.seed, self.mesh.compute)
        for name, parameter in module.named_parameters():
            if name in self.parameters:
                owner, _, leaf = name.rpartition(".")
                setattr(module.get_submodule(owner), leaf, self.parameters[name])
            else:
                self.parameters[name] = parameter
        granularity = self.config.parallel.recompute_granularity
        # Ring attention keeps nothing that could be dropped: recomputing it would only send everything twice.
        module.recompute = "none" if granularity == "selective" and self.mesh.cp > 1 else granularity
        module.compute_dtype = self.dtype

    def _tied_sync(self, compress: Mapping[str, CodecSpec]) -> TiedSync | None:
        """What keeps this rank's copy of the tied embedding equal to the others, if it has one. Collective."""
        if self.full is not None:
            groups, replicas = [self.full.tied] if self.full.tied is not None else [], 1
        else:
            groups = sums(self.mesh, self.stages.ends, self.config.parallel.embedding_sync == "separate")
            replicas = self.mesh.dp * self.mesh.cp
        return TiedSync(self.parameters[TIED], groups, replicas, compress, self.clock) if groups else None

    @property
    def dtype(self) -> torch.dtype:
        """Of the hidden states, and of what stages send each other."""
        return DTYPES[self.config.run.precision]

    @property
    def iteration(self) -> int:
        """Steps taken."""
        return self.clock.step

    @property
    def progress(self) -> Progress:
        """The samples consumed, and those of the next step."""
        return self.config.run.sizes.at(self.clock.step)

    def channels(self, stage: int) -> dict[str, int]:
        """The parameters of a stage's trained codecs: global name -> channels that they send."""
        return channels(self.trained, self.stages, stage)

    def restore(self, iteration: int, state: Mapping[str, Any] | None) -> None:
        """Continue after `iteration` steps; `state` is the optimizer's, see `Update.restore`."""
        self.clock.step = iteration
        self.update.restore(state, iteration)

    def step(self, batch: Batch) -> StepResult:
        """One optimizer step on this replica's samples.

        Raises:
            MccError: the loss is not finite.
        """
        rate, scale = self.rate(self.clock.step), self.update.scale
        self.update.zero_grad()
        tokens = self._begin(batch, self.clock.step)
        self.pipeline.step(tokens, len(self._work.microbatches))
        parts = self._mean(self._work.loss)
        loss = sum(parts)
        if not math.isfinite(loss):
            raise not_finite("loss", loss, self.clock.step + 1, bool(self._work.loss.isfinite().all()))
        norm = self.update(rate, self._complete, self._average)
        self.clock.step += 1
        names = self.objective.parts(self.config.model)
        return StepResult(
            loss=loss,
            parts=dict(zip(names, parts, strict=True)),
            grad_norm=norm,
            lr=rate,
            loss_scale=scale if self.config.run.precision == "fp16" else None,
        )

    def score(self, evaluation: Evaluation) -> dict[str, float]:
        """`evaluate` as `eval_codec` says; what is found through the codecs has the suffix `_codec`."""
        how = self.config.run.eval_codec
        found = {} if how == "on" else self.evaluate(evaluation)
        if how != "off":
            found |= {f"{key}_codec": number for key, number in self.evaluate(evaluation, coded=True).items()}
        return found

    def evaluate(self, evaluation: Evaluation, coded: bool = False) -> dict[str, float]:
        """The mean loss over the evaluation's samples and its metrics, nothing counted.

        Nothing is compressed, as the converted model will compute; with `coded` what goes forward is, by codecs that
        neither change nor use what they remember.
        """
        for module in self.modules.values():
            module.eval()
        parts = self.objective.parts(self.config.model)
        total = weight = torch.zeros(len(parts), dtype=torch.float64)
        size, mesh = self.config.run.global_batch_size, self.mesh
        seen: list[tuple[int, Tensor, Tensor]] = []
        with nullcontext() if coded else self.axes.dense(), mesh.wire.paused(), self._exact(coded):
            for first in range(0, evaluation.samples, size):
                batch = evaluation.source.batch(first, size, mesh.dp_rank, mesh.dp)
                tokens = self._begin(batch, None)
                self.pipeline.evaluate(tokens, len(self._work.microbatches), coded)
                total = total + torch.tensor(self._mean(self._work.loss)) * self._work.weight
                weight = weight + self._work.weight
                if evaluation.metrics is not None and self._work.predictions:
                    mine = share(first, size, mesh.dp_rank, mesh.dp)
                    seen.append((mine.start, torch.cat(self._work.predictions), batch["labels"]))
        for module in self.modules.values():
            module.train()
        means = total / weight.clamp_min(1e-30)
        found = {"loss": float(means.sum())}
        if len(parts) > 1:
            found.update(zip(parts, means.tolist(), strict=True))
        return found | self._metrics(evaluation, seen)

    @contextmanager
    def _exact(self, coded: bool) -> Iterator[None]:
        """Within the block parameters are exact unless `coded`, whatever the codec of `zero.weights` left of them."""
        with self.zero.exact() if self.zero is not None and not coded else nullcontext():
            yield
        if self.full is not None:
            self.full.reshard()

    def _metrics(self, evaluation: Evaluation, seen: list[tuple[int, Tensor, Tensor]]) -> dict[str, float]:
        """The metrics of all ranks' predictions: (first sample, predictions, labels) of each batch here."""
        if evaluation.metrics is None:
            return {}
        # The tokens that heads look at are on the first context-parallel rank.
        mine = seen if self.mesh.tp_rank == 0 and self.mesh.cp_rank == 0 else []
        gathered: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(gathered, mine)
        batches = sorted((batch for theirs in gathered for batch in theirs), key=lambda batch: batch[0])
        predictions = torch.cat([batch[1] for batch in batches])[: evaluation.samples]
        labels = torch.cat([batch[2] for batch in batches])[: evaluation.samples]
        return evaluation.metrics(predictions.numpy(), labels.numpy())

    def codecs(self) -> Mapping[str, Codec]:
        """Every codec in use on this rank, by site and key."""
        found: dict[str, Codec] = self.pipeline.codecs()
        for site, streams in (
            ("tp.forward", self.axes.forward.codecs()),
            ("tp.backward", self.axes.backward.codecs()),
            ("dp.grad", self.sync.codecs()),
            ("embedding", self.tied.codecs() if self.tied is not None else {}),
        ):
            found.update({f"{site}/{key}": codec for key, codec in streams.items()})
        for sharded in (self.zero, self.full):
            found.update(sharded.codecs() if sharded is not None else {})
        return found

    def _complete(self) -> None:
        """Give gradients what other ranks of the replica have of them, and a tied embedding's two copies the same."""
        sync_sequence(self.parameters, self.partial, self.axes.tokens)
        if self.tied is not None:
            self.tied()

    def _average(self) -> None:
        """Make what stands for the gradients of all other parameters the mean over the replicas."""
        if self.full is None:  # else it is since the backward pass
            self.sync()

    def _begin(self, batch: Batch, step: int | None) -> Tensor:
        """Cut a replica's batch into micro-batches and weigh it against all replicas'; this rank's tokens [N, T/C].

        `step` seeds the dropout; None: there is none.
        """
        samples = len(batch["labels"]) if "labels" in batch else len(batch["tokens"])
        if self.mesh.cp > 1:
            count = batch["tokens"].shape[1] // self.mesh.cp
            batch = on_positions(batch, self.axes.positions(count, batch["tokens"].device))
        weight = self.objective.weight(batch, self.config.model).double()
        with self.mesh.wire.recorder.span("wait", what="weights"):
            dist.all_reduce(weight, group=self.mesh.replicas)
        count = samples // self.config.run.micro_batch_size
        epoch = self.progress.samples // self.epoch_samples if self.epoch_samples else 0
        self.clock.begin(ids_of(batch, count) if step is not None else None, epoch, training=step is not None)
        if step is not None:
            contexts = [self.clock.context(microbatch) for microbatch in range(count)]
            for codec in self.pipeline.codecs().values():
                codec.begin(contexts)
        batch = {
            name: tensor.to(self.mesh.compute, non_blocking=True) for name, tensor in batch.items() if name != "ids"
        }
        microbatches = split(batch, count)
        self._work = Work(microbatches, weight, step, self.mesh.compute)
        return batch["tokens"]

    def _run(self, microbatch: int, index: int, x: Tensor) -> Tensor:
        """A stage on a micro-batch: its hidden states, or of the last stage its share of the replicas' mean loss."""
        work, self.clock.microbatch = self._work, microbatch
        batch, random = work.microbatches[microbatch], None
        if work.step is not None:
            place = self.mesh.dp_rank * len(work.microbatches) + microbatch
            random = Randomness(self.config.run.seed, work.step, place)
        extras = Extras(batch.get("padding"), batch.get("token_types"), random)
        out = self.modules[index](x, extras)
        if index != self.stages.last:
            assert isinstance(out, Tensor)
            return out
        # The mean over replicas then gives the sum of losses over the sum of weights.
        scale = (self.mesh.dp * self.mesh.cp / work.weight.clamp_min(1e-30)).float().to(self.mesh.compute)
        parts = self.objective.loss(out, batch, self.axes, self.config.model) * scale
        work.loss = work.loss + parts.detach()
        if work.step is None:
            predictions = self.objective.predictions(out, batch)
            if predictions is not None:
                work.predictions.append(predictions.cpu())
        return parts.sum() * self.update.scale

    def _mean(self, parts: Tensor) -> list[float]:
        """The mean over the replicas of the last stage's losses, on every rank; control traffic, not counted."""
        mine = self.pipeline.last and self.mesh.tp_rank == 0
        total = parts.double().cpu() if mine else torch.zeros(parts.shape, dtype=torch.float64)
        with self.mesh.wire.recorder.span("wait", what="loss"):
            dist.all_reduce(total)
        means: list[float] = (total / (self.mesh.dp * self.mesh.cp)).tolist()
        return means


class Work:
    """A step's micro-batches under way.

    Args:
        microbatches: this replica's.
        weight: float64[K], the sums of weights over all replicas, for each part of the loss.
        step: what dropout is seeded by, or None.

    Attributes:
        loss: float32[K], this replica's parts of the mean loss, of the micro-batches that were run; on the last stage.
        predictions: what the objective says of their samples, in evaluation.
    """

    def __init__(self, microbatches: list[Batch], weight: Tensor, step: int | None, device: torch.device = CPU) -> None:
        self.microbatches, self.weight, self.step = microbatches, weight, step
        self.loss = torch.zeros(weight.shape, device=device)
        self.predictions: list[Tensor] = []
