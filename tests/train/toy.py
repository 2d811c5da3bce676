"""A small run for the training tests: random tokens with something to learn, and an engine trained on them."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mcc.models.base.config import ModelConfig
from mcc.models.base.forms import pad_rows
from mcc.train.config import OptimConfig, ParallelConfig, RunConfig, TrainConfig
from mcc.train.engine import Batch, Engine, make_mesh
from mcc.train.parallel.gradients import TIED

MODEL = ModelConfig(
    num_layers=4, hidden_size=32, num_attention_heads=4, seq_length=16, vocab_size=101, make_vocab_size_divisible_by=8
)


def toy_config(
    tp: int = 1, pp: int = 1, dp: int = 1, compress: tuple[str, ...] = (), schedule: Any = "1f1b", **run: Any
) -> TrainConfig:
    """A configuration for `tp*pp*dp` ranks: 8 samples a step, micro-batches of 1, so 8/dp a replica."""
    return TrainConfig(
        model=MODEL,
        parallel=ParallelConfig(tp=tp, pp=pp, dp=dp, schedule=schedule),
        # The key biases' gradients are zero but for rounding; a larger epsilon keeps Adam from making steps of it.
        optim=OptimConfig(lr=3e-3, lr_warmup_iters=2, adam_eps=1e-6),
        run=RunConfig(**{"micro_batch_size": 1, "global_batch_size": 8, "train_iters": 20, **run}),
        compress=compress,
    )


def toy_batch(step: int, replica: int, replicas: int) -> Batch:
    """This replica's samples of a step: a fixed random walk over the vocabulary, so that it can be learnt."""
    generator = torch.Generator().manual_seed(step)
    start = torch.randint(0, MODEL.vocab_size, (8, 1), generator=generator)
    jumps = torch.randint(1, 4, (8, MODEL.seq_length), generator=generator).cumsum(1)
    rows = (torch.cat([start, start + jumps], 1) % MODEL.vocab_size).chunk(replicas)[replica]
    return {"tokens": rows[:, :-1].contiguous(), "targets": rows[:, 1:].contiguous()}


def make_engine(config: TrainConfig) -> Engine:
    """This rank's engine over the default process group."""
    assert config.parallel.dp is not None
    return Engine(config, make_mesh(config))


def train(engine: Engine, steps: int) -> list[float]:
    """The losses of the next `steps` steps."""
    mesh = engine.mesh
    return [engine.step(toy_batch(engine.iteration, mesh.dp_rank, mesh.dp)).loss for _ in range(steps)]


def whole_parameters(engine: Engine) -> dict[str, Tensor]:
    """Every parameter of the model, whole and without padding, gathered from all ranks (on every rank)."""
    mesh = engine.mesh
    pieces: list[Any] = [None] * dist.get_world_size()
    mine = {name: p.detach().clone() for name, p in engine.parameters.items() if engine.pipeline.first or name != TIED}
    place = (mesh.pp_rank, mesh.dp_rank, mesh.tp_rank)
    dist.all_gather_object(pieces, (place, mine))
    found: dict[str, Tensor] = {}
    for stage in range(mesh.pp):
        shards = [dict(pieces_[1]) for pieces_ in sorted(pieces, key=lambda p: p[0]) if pieces_[0][:2] == (stage, 0)]
        for name in shards[0]:
            row = engine.family.row(name)
            parts = [shard[name] for shard in shards]
            whole = parts[0] if row.tp_dim is None else torch.cat(parts, row.tp_dim)
            found[name] = pad_rows(whole, MODEL.vocab_size) if row.shape[0] == "V" else whole
    return found


def trained(config: TrainConfig, steps: int) -> tuple[list[float], dict[str, Tensor]]:
    """Losses and final parameters of a run; call it on every rank."""
    torch.manual_seed(0)
    engine = make_engine(config)
    losses = train(engine, steps)
    return losses, whole_parameters(engine)


def with_run(config: TrainConfig, **changes: Any) -> TrainConfig:
    """`config` with other values in its `run` section."""
    return dataclasses.replace(config, run=dataclasses.replace(config.run, **changes))
