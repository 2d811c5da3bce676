"""Everything that can be wrong is found here, before any rank starts and before anything is written."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from mcc.ckpt import native
from mcc.ckpt.format import open_checkpoint
from mcc.ckpt.layout import check_layout
from mcc.ckpt.tokenizer_files import tokenizer_json
from mcc.core.errors import UsageError
from mcc.core.ranks import restart_count, restarts_elsewhere
from mcc.data.indexed import IndexedDataset
from mcc.data.tokenizer import load_tokenizer
from mcc.data.training.blends import Blend
from mcc.models.base.config import ModelConfig
from mcc.models.base.family import families
from mcc.models.base.transformer import require_window
from mcc.train.compiled import check_compile
from mcc.train.compress.presets import with_presets
from mcc.train.compress.spec import FORWARD, parse_all
from mcc.train.config import ParallelConfig, TrainConfig
from mcc.train.data import open_data
from mcc.train.finetune.resolve import resolve
from mcc.train.layout import stages_of
from mcc.train.optim.schedule import LearningRate
from mcc.train.parallel.fully_shard import check_fully_shard
from mcc.train.parallel.pipeline import check_schedule
from mcc.train.parallel.places import check_scopes
from mcc.train.parallel.tokens import require_cp
from mcc.train.parallel.trained import check_trained
from mcc.train.samples import check_samples


def prepare(config: TrainConfig, world_size: int) -> tuple[TrainConfig, str | None]:
    """The configuration with everything filled in, and the tokenizer (its JSON) to keep with checkpoints.

    Raises:
        UsageError, MccError: anything that would make the run fail, with the numbers.
    """
    families.get(config.model.family)
    config = with_presets(config)
    parse_all(config.compress)
    _check_folders(config)
    config, tokenizer = _model(config)
    config = resolve(config)
    dp = config.parallel.replicas(world_size)
    config = dataclasses.replace(config, parallel=dataclasses.replace(config.parallel, dp=dp))
    if config.run.train_samples is not None:
        steps = config.run.sizes.steps(config.run.train_samples)
        config = dataclasses.replace(config, run=dataclasses.replace(config.run, train_iters=steps))
    LearningRate(config.optim, config.run.sizes, config.run.train_iters)
    check_orthogonality(config)
    check_precision(config)
    check_recompute(config)
    check_fully_shard(config)
    check_zero(config)
    check_momentum(config)
    check_compile(config)
    _check_layout(config, dp)
    data = open_data(config, tokenizer)
    check_samples(config, data, stages_of(config))
    check_epochs(config, data.train.epoch_samples)
    return config, tokenizer


def _model(config: TrainConfig) -> tuple[TrainConfig, str | None]:
    """The model's shape: from `--load`'s checkpoint, or as configured with the tokenizer's vocabulary."""
    model: ModelConfig = config.model
    tokenizer: str | None = None
    if config.run.load:
        meta = open_checkpoint(Path(config.run.load)).meta
        model = meta.config
        if config.data.sample_length:
            model = dataclasses.replace(
                model, seq_length=config.data.sample_length, max_position_embeddings=model.positions
            )
        tokenizer = tokenizer_json(meta.tokenizer) if meta.tokenizer else None
    if config.data.tokenizer:
        found = load_tokenizer(config.data.tokenizer)
        tokenizer, size = found.backend.to_str(), found.vocab_size
        if not model.vocab_size:
            model = dataclasses.replace(model, vocab_size=size)
        elif size > model.vocab_size:
            raise UsageError(
                f"{config.data.tokenizer} has {size} tokens, more than vocab_size = {model.vocab_size}",
                "leave --vocab-size out to take the tokenizer's",
            )
    if not model.vocab_size:
        raise UsageError("the vocabulary's size is not known", "--tokenizer FILE, or --vocab-size N")
    return dataclasses.replace(config, model=model), tokenizer


def _check_layout(config: TrainConfig, dp: int) -> None:
    parallel = config.parallel
    check_layout(config.model, parallel.tp, parallel.pp)
    causal = families.get(config.model.family)().blueprint.causal
    shares = parallel.tp if parallel.sequence_parallel else 1
    require_cp(config.model.seq_length, parallel.cp, causal, shares)
    if config.model.sliding_window is not None:
        require_window(config.model.seq_length, config.model.sliding_window)
    for microbatches in config.run.microbatches(dp):
        check_schedule(parallel.schedule, parallel.vpp, microbatches, parallel.pp)
    family, compress, stages = families.get(config.model.family)(), parse_all(config.compress), stages_of(config)
    check_scopes(compress, stages, family, config.model)
    check_trained(compress, config.model, stages)


def _check_folders(config: TrainConfig) -> None:
    if config.finetune.task is None:
        if not config.data.data_path:
            raise UsageError("no training data", "--data-path PREFIX, as `mcc data preprocess` wrote it")
        for prefix in Blend.parse(config.data.data_path).prefixes:
            IndexedDataset(prefix)
    if not config.run.save:
        return
    folder = Path(config.run.save)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--save {folder} is a file", "give a folder")
    if not restarts_elsewhere():
        refuse_other_run(config)


def refuse_other_run(config: TrainConfig) -> None:
    """Refuse a folder with the checkpoints of a run that this one does not continue.

    Raises:
        UsageError: `--save` has some.
    """
    run = config.run
    if run.save and not run.resume and not restart_count() and native.latest(Path(run.save)) is not None:
        raise UsageError(f"{run.save} already holds a run", "--resume continues it; or choose another --save")


def check_epochs(config: TrainConfig, epoch_samples: int | None) -> None:
    """Refuse to wait for an epoch of data whose epochs are not known.

    Raises:
        UsageError: a codec would.
    """
    for site, spec in parse_all(config.compress).items():
        if epoch_samples is None and spec.scope.when.kind == "epoch":
            raise UsageError(
                f"--compress {site}: when={spec.scope.when}, but epochs of blends and BERT's samples are not known",
                "when=after:STEP",
            )


def check_orthogonality(config: TrainConfig) -> None:
    """Refuse to measure what feedback meets where there is none, or no place for what is found.

    Raises:
        UsageError: it is so.
    """
    if not config.observe.check_orthogonality:
        return
    spec = parse_all(config.compress).get("pp.backward")
    if spec is None or not spec.feedback or config.parallel.pp == 1:
        raise UsageError(
            "--check-orthogonality measures the error feedback of pp.backward, but there is none",
            "--pp 2 or more, and for example --compress cb-lep",
        )
    if not config.run.save:
        raise UsageError("--check-orthogonality needs --save: the folder for orthogonality.jsonl")


def check_precision(config: TrainConfig) -> None:
    """Refuse codecs that remember gradients where gradients may overflow: fp16's loss scale is found by overflowing.

    Raises:
        UsageError: one of them would.
    """
    if config.run.precision != "fp16":
        return
    for site, spec in parse_all(config.compress).items():
        if site.endswith(".backward") and spec.remembers:  # dp.grad is reached only by gradients that are finite
            raise UsageError(
                f"--compress {site}={spec.name} would remember an overflow of --precision fp16 for good",
                "--precision bf16, or a codec without memory, such as quantize without feedback",
            )


def check_recompute(config: TrainConfig) -> None:
    """Refuse a codec with memory whose sends would be repeated: a layer computed again sums its outputs again.

    Raises:
        UsageError: it would.
    """
    spec = parse_all(config.compress).get("tp.forward")
    if config.parallel.recompute_granularity == "full" and config.parallel.tp > 1 and spec and spec.remembers:
        raise UsageError(
            f"--compress tp.forward={spec.name} would remember what --recompute-granularity full sends twice",
            "--recompute-granularity selective, or a codec without memory, such as quantize without feedback",
        )


def check_momentum(config: TrainConfig) -> None:
    """Refuse to send a momentum that is not there, whole and with a variance that can be frozen.

    Raises:
        UsageError: what is missing.
    """
    spec, parallel = parse_all(config.compress).get("dp.grad"), config.parallel
    if spec is None or spec.of != "momentum":
        return
    if config.optim.optimizer != "adam":
        raise UsageError(
            f"--compress dp.grad=...,of=momentum is for Adam, not --optimizer {config.optim.optimizer}", "of=gradient"
        )
    if parallel.zero:
        raise UsageError(
            "--compress dp.grad=...,of=momentum needs the whole momentum on every replica, which --zero 1 shares out",
            "--zero 0, or --compress zero.grads",
        )
    if spec.active(0, config.run.train_iters):
        raise UsageError(
            "--compress dp.grad=...,of=momentum freezes the variance when its warm-up ends, and has none",
            "e.g. warmup=0.15, a share of the run; or when=after:STEP",
        )


def check_zero(config: TrainConfig) -> None:
    """Refuse two codecs of one gradient.

    Raises:
        UsageError: there are two.
    """
    compress = parse_all(config.compress)
    if config.parallel.zero and "dp.grad" in compress and "zero.grads" in compress:
        raise UsageError(
            "--compress dp.grad sums whole gradients on all replicas, zero.grads each where its owner is",
            "give one of them: zero.grads sends half as much",
        )


def _embedding_alone(parallel: ParallelConfig, alone: bool) -> str:
    """Why the tied embedding's gradient is not summed at a site of its own; empty: it is."""
    if parallel.pp > 1:
        return ""
    if parallel.fully_shard and not alone:
        return "it is summed at zero.grads"
    return "there is one copy of it" if alone else ""


def without_effect(config: TrainConfig) -> list[str]:
    """Settings of a resolved configuration that change nothing, each with the reason."""
    parallel, optim, run = config.parallel, config.optim, config.run
    found = []
    alone = (parallel.dp or 1) * parallel.cp == 1
    if alone:
        for flag, given in (("--zero 1", parallel.zero), ("--fully-shard", parallel.fully_shard)):
            if given:
                found.append(f"{flag} has no effect: dp*cp = 1, so there is nobody to share with")
    if optim.loss_scale is not None and run.precision != "fp16":
        found.append(f"--loss-scale has no effect with --precision {run.precision}: fp16 alone has one")
    sharded = (parallel.zero or parallel.fully_shard) and not alone
    compress = parse_all(config.compress)
    tied = families.get(config.model.family)().tied(config.model)
    sums = not alone or ("dp.grad" in compress and compress["dp.grad"].of == "momentum")  # which freezes the variance
    absent = {
        "dp.grad": "" if sums else "dp*cp = 1, so there is nothing to sum",
        "cp.kv": "cp = 1" if parallel.cp == 1 else "",
        "zero.grads": "" if sharded else "no replica owns gradients",
        "zero.weights": "" if sharded else "no replica owns weights",
        "embedding": _embedding_alone(parallel, alone) if tied else "it is not tied",
    }
    for site in compress:
        if absent.get(site):
            found.append(f"--compress {site} has no effect: {absent[site]}")
    if parallel.embedding_sync == "separate" and parallel.pp == 1:
        found.append("--embedding-sync separate has no effect: pp = 1, so there is one copy")
    if parallel.sequence_parallel and parallel.tp == 1:
        found.append("--sequence-parallel has no effect: tp = 1")
    if config.finetune.task and config.data.samples == "fixed":
        found.append("--samples fixed has no effect: a task's examples are the same in every epoch")
    if run.eval_codec != "off" and not any(site in compress for site in FORWARD):
        found.append(f"--eval-codec {run.eval_codec} has no effect: no codec is at {', '.join(FORWARD)}")
    for site, spec in compress.items():
        axis = site.partition(".")[0]
        if axis in ("tp", "pp") and getattr(parallel, axis) == 1 and not (axis == "tp" and spec.codec.trainable):
            found.append(f"--compress {site} has no effect: {axis} = 1")
        elif spec.scope.when.kind != "epoch" and not spec.active(run.train_iters - 1, run.train_iters):
            found.append(f"--compress {site} has no effect: the run ends before it begins to compress")
    return found
