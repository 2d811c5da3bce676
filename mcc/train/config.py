"""The configuration of a training run. Megatron-LM's names where it has them. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from mcc.core.config import option
from mcc.core.errors import UsageError
from mcc.data.training.batch_size import BatchSizes
from mcc.data.training.config import MaskConfig
from mcc.models.base.config import ModelConfig
from mcc.train.finetune.config import FinetuneConfig
from mcc.train.optim.config import OptimConfig


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the tokens come from."""

    data_path: str | None = option(
        None, "prefix of the training data's .bin and .idx files, or a blend: WEIGHT PREFIX WEIGHT PREFIX ..."
    )
    valid_data_path: str | None = option(None, "the same, of the held-out data [a part of --data-path, by --split]")
    split: str = option("949,50,1", "shares of documents for training, validation and test")
    tokenizer: str | None = option(None, "tokenizer.json, or a folder that has one; kept with every checkpoint")
    sample_length: int | None = option(None, "tokens of a sample, fewer than --load's model can see [as many]")
    samples: Literal["running", "fixed"] = option(
        "running",
        "running: documents are shuffled and cut anew in every epoch, as in Megatron-LM; fixed: the same windows in "
        "every epoch, in another order",
    )
    data_cache_path: str | None = option(None, "folder for the indices of samples [beside each token file]")
    masking: MaskConfig = field(default_factory=MaskConfig)


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """How ranks divide the work: world size = tp x pp x dp x cp."""

    tp: int = option(1, "tensor-parallel ranks")
    pp: int = option(1, "pipeline ranks")
    vpp: int = option(1, "pipeline stages a rank (interleaved schedules; zbv and dualpipev have 2)")
    dp: int | None = option(None, "data-parallel replicas [world size / (tp x pp x cp)]")
    cp: int = option(1, "context-parallel ranks: each has a part of every sample's tokens")
    zero: int = option(0, "1: each replica keeps the optimizer's state of its own rows of the parameters (ZeRO-1)")
    fully_shard: bool = option(False, "shard parameters and gradients, too, with torch's fully_shard (ZeRO-3)")
    sequence_parallel: bool = option(False, "shard norms and dropout over the tokens among the tensor-parallel ranks")
    schedule: Literal["1f1b", "gpipe", "zero-bubble", "zbv", "dualpipev"] = option("1f1b", "pipeline schedule")
    embedding_sync: Literal["fused", "separate"] = option(
        "fused",
        "how the gradients of a tied embedding are summed: over both its copies and all replicas at once, or over the "
        "replicas first",
    )
    recompute_granularity: Literal["none", "selective", "full"] = option(
        "none", "what the backward pass computes again to save memory: nothing, attention alone, or whole layers"
    )
    stages: str | None = option(None, "layers of each pipeline stage, such as 6,6,7,5, or auto [even]")

    def __post_init__(self) -> None:
        for name in ("tp", "pp", "vpp", "dp", "cp"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} = {value} must be at least 1")
        if self.zero not in (0, 1):
            raise UsageError(f"zero = {self.zero} is neither 0 nor 1", "1 shards the optimizer's state")

    def replicas(self, world_size: int) -> int:
        """Data-parallel replicas in a world of `world_size` ranks.

        Raises:
            UsageError: the sizes do not multiply to the world size.
        """
        rest = self.tp * self.pp * self.cp
        dp = self.dp or max(1, world_size // rest)
        if dp * rest != world_size:
            sizes = {"dp": dp, "tp": self.tp, "pp": self.pp} | ({"cp": self.cp} if self.cp > 1 else {})
            need = f"{'*'.join(sizes)} = {'*'.join(map(str, sizes.values()))} = {dp * rest}"
            raise UsageError(f"{need} but world size is {world_size}", f"--nproc {dp * rest}")
        return dp


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """How long to train, and what to keep."""

    micro_batch_size: int = option(4, "samples of one micro-batch on one replica")
    global_batch_size: int = option(16, "samples of one step over all replicas")
    rampup_batch_size: tuple[int, int, int] | None = option(
        None,
        "begin with START samples a step and add INCREMENT at a time over the first SAMPLES samples",
        metavar="START INCREMENT SAMPLES",
    )
    train_iters: int = option(100, "optimizer steps")
    train_samples: int | None = option(None, "samples to train on, instead of --train-iters")
    precision: Literal["fp32", "bf16", "fp16"] = option(
        "fp32", "of the computation; weights and their gradients are kept and added in fp32"
    )
    compile: bool = option(False, "let torch.compile fuse each layer; for GPUs, on CPUs it gains nothing")
    device: Literal["auto", "cpu", "cuda"] = option("auto", "where ranks compute; auto: a GPU where there is one")
    seed: int = option(1234, "seed of the weights and of the order of the data")
    eval_interval: int = option(0, "steps between held-out evaluations; 0: at the end alone")
    eval_iters: int = option(10, "global batches of one held-out evaluation; 0: none")
    eval_codec: Literal["off", "on", "both"] = option(
        "off", "evaluate as the model is, through the codecs of what is sent forward, or both ways"
    )
    log_interval: int = option(1, "steps between lines of metrics.jsonl")
    save: str | None = option(None, "folder for checkpoints, metrics and the record of the run")
    save_interval: int = option(0, "steps between checkpoints; 0: at the end alone")
    resume: bool = option(False, "continue from the last checkpoint in --save, if there is one")
    load: str | None = option(None, "begin with the model and weights of this checkpoint, any format of `mcc ckpt`")

    def __post_init__(self) -> None:
        for name in ("micro_batch_size", "global_batch_size", "train_iters", "log_interval"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} = {getattr(self, name)} must be at least 1")
        if self.train_samples is not None and self.train_samples < 1:
            raise UsageError(f"train_samples = {self.train_samples} must be at least 1")
        BatchSizes(self.global_batch_size, self.rampup_batch_size)
        for name in ("eval_interval", "eval_iters", "save_interval", "seed"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} = {getattr(self, name)} must not be negative")
        if self.resume and not self.save:
            raise UsageError("--resume needs --save: the folder that holds the run")
        if self.save_interval and not self.save:
            raise UsageError("--save-interval needs --save")

    @cached_property
    def sizes(self) -> BatchSizes:
        """The samples of every step."""
        return BatchSizes(self.global_batch_size, self.rampup_batch_size)

    @property
    def samples(self) -> int:
        """Samples of the whole run."""
        return self.sizes.at(self.train_iters).samples

    def microbatches(self, dp: int) -> list[int]:
        """Micro-batches of one replica in one step: every number that occurs.

        Raises:
            UsageError: a batch does not divide.
        """
        self.sizes.check(self.micro_batch_size, dp)
        return [size // (self.micro_batch_size * dp) for size in self.sizes.sizes]


@dataclass(frozen=True, kw_only=True)
class ObserveConfig:
    """What is shown and recorded of a run beside `metrics.jsonl`."""

    trace: str | None = option(None, "write what every rank did when to this file, for Perfetto or chrome://tracing")
    trace_steps: str = option("2-11", "steps that --trace records, FIRST-LAST")
    tensorboard_dir: str | None = option(None, "write the metrics for TensorBoard, too; needs mcc[tensorboard]")
    check_orthogonality: bool = option(
        False, "measure what error feedback at pp.backward meets, into orthogonality.jsonl (Optimus-CC, figure 11)"
    )
    memory_interval: int = option(100, "steps between measurements of every rank's memory; 0: never")

    def __post_init__(self) -> None:
        if self.memory_interval < 0:
            raise UsageError(f"memory_interval = {self.memory_interval} must not be negative")
        self.traced()

    def traced(self) -> range:
        """The steps, counted from 1, that `--trace` records.

        >>> ObserveConfig(trace_steps="3-5").traced()
        range(3, 6)

        Raises:
            UsageError: not FIRST-LAST.
        """
        first, dash, last = self.trace_steps.partition("-")
        last = last if dash else first
        if not (first.isdigit() and last.isdigit() and 1 <= int(first) <= int(last)):
            raise UsageError(f"--trace-steps {self.trace_steps} is not FIRST-LAST", "for example --trace-steps 2-11")
        return range(int(first), int(last) + 1)


@dataclass(frozen=True, kw_only=True)
class SafetyConfig:
    """Checkpoints kept, and what happens when something breaks."""

    keep_last: int = option(0, "checkpoints to keep, the oldest are deleted; 0: all")
    async_save: bool = option(False, "copy the state to host memory, write it in the background and train on")
    max_restarts: int = option(0, "times to start again from the last good checkpoint when a rank fails")
    verify_codecs: bool = option(
        False, "check that every compressed message decodes to the same bits on both its ends, and every sum on all"
    )
    heartbeat_timeout: float = option(15.0, "seconds without a sign of life until a rank counts as dead; 0: unwatched")
    distributed_timeout_minutes: float = option(10.0, "minutes that a rank waits for the others until it gives up")

    def __post_init__(self) -> None:
        for name in ("keep_last", "max_restarts", "heartbeat_timeout"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} = {getattr(self, name)} must not be negative")
        if self.distributed_timeout_minutes <= 0:
            raise UsageError(f"distributed_timeout_minutes = {self.distributed_timeout_minutes} must be positive")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training run. `compress` holds values of `--compress`."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    observe: ObserveConfig = field(default_factory=ObserveConfig)
    safety: SafetyConfig = field(default_factory=SafetyConfig)
    compress: tuple[str, ...] = option(
        (), "SITE=CODEC[:key=value,...]: compress that traffic (repeatable); or a preset of --list-presets"
    )
