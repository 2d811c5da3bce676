"""A small run for the training tests: random tokens with something to learn, and an engine trained on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mcc.models.base.config import ModelConfig
from mcc.models.base.family import families
from mcc.models.base.forms import pad_rows
from mcc.train.batch import Batch
from mcc.train.config import OptimConfig, ParallelConfig, RunConfig, TrainConfig
from mcc.train.engine import Engine
from mcc.train.layout import make_mesh
from mcc.train.parallel.gradients import TIED

MODEL = ModelConfig(
    num_layers=4, hidden_size=32, num_attention_heads=4, seq_length=16, vocab_size=101, make_vocab_size_divisible_by=8
)


def toy_config(
    tp: int = 1,
    pp: int = 1,
    dp: int = 1,
    compress: tuple[str, ...] = (),
    parallel: Mapping[str, Any] | None = None,
    model: ModelConfig = MODEL,
    **run: Any,
) -> TrainConfig:
    """A configuration for `tp*pp*dp` ranks: 8 samples a step, micro-batches of 1, so 8/dp a replica.

    `parallel` has more of `ParallelConfig`'s values.
    """
    return TrainConfig(
        model=model,
        parallel=ParallelConfig(tp=tp, pp=pp, dp=dp, **(parallel or {})),
        # The key biases' gradients are zero but for rounding; a larger epsilon keeps Adam from making steps of it.
        optim=OptimConfig(lr=3e-3, lr_warmup_iters=2, adam_eps=1e-6),
        run=RunConfig(**{"micro_batch_size": 1, "global_batch_size": 8, "train_iters": 20, **run}),
        compress=compress,
    )


def toy_batch(step: int, replica: int, replicas: int, model: ModelConfig = MODEL) -> Batch:
    """This replica's samples of a step: fixed random walks over the vocabulary, so that there is something to learn.

    BERT gets a part of its tokens masked, in samples of several lengths, some without any mask in their second half.
    """
    generator = torch.Generator().manual_seed(step)
    start = torch.randint(0, model.vocab_size, (8, 1), generator=generator)
    jumps = torch.randint(1, 4, (8, model.seq_length), generator=generator).cumsum(1)
    rows = torch.cat([start, start + jumps], 1) % model.vocab_size
    batch = {"tokens": rows[:, :-1].contiguous(), "targets": rows[:, 1:].contiguous()}
    if not families.get(model.family)().blueprint.causal:
        T = model.seq_length
        place = torch.arange(T)
        lengths = torch.tensor([T, T, T - 3, T - 5, T // 2, T // 2 - 1, T - 1, T])[:, None]
        padding = place < lengths
        masked = (torch.rand(8, T, generator=generator) < 0.3) & padding
        masked[:4, T // 2 :] = False  # context-parallel ranks without any target
        masked[:, 1] = True
        batch = {
            "tokens": rows[:, :-1].masked_fill(masked, 0),
            "targets": rows[:, :-1].contiguous(),
            "weights": masked.float(),
            "token_types": (place > 5).long().expand(8, T).contiguous(),
            "padding": padding,
            "labels": rows[:, 0] % 2,
            "label_weights": torch.ones(8),
        }
    return {name: tensor.chunk(replicas)[replica] for name, tensor in batch.items()}


def make_engine(config: TrainConfig) -> Engine:
    """This rank's engine over the default process group."""
    assert config.parallel.dp is not None
    return Engine(config, make_mesh(config))


def train(engine: Engine, steps: int) -> list[float]:
    """The losses of the next `steps` steps."""
    mesh = engine.mesh
    model = engine.config.model
    return [engine.step(toy_batch(engine.iteration, mesh.dp_rank, mesh.dp, model)).loss for _ in range(steps)]


def whole_parameters(engine: Engine) -> dict[str, Tensor]:
    """Every parameter of the model, whole and without padding, gathered from all ranks (on every rank)."""
    mesh = engine.mesh
    pieces: list[Any] = [None] * dist.get_world_size()
    mine = {name: p.detach().clone() for name, p in engine.parameters.items()}
    if engine.full is not None:  # rows of every replica, in order
        replicas: list[Any] = [None] * (mesh.dp * mesh.cp)
        dist.all_gather_object(replicas, mine, group=mesh.replicas)
        mine = {name: torch.cat([theirs[name] for theirs in replicas]) for name in mine}
    dist.all_gather_object(pieces, (mesh.dp_rank, mesh.cp_rank, mesh.tp_rank, mine))
    shards: dict[str, list[Tensor]] = {}
    tied: dict[int, Tensor] = {}
    for dp_rank, cp_rank, tp_rank, theirs in sorted(pieces, key=lambda piece: piece[:3]):
        if (dp_rank, cp_rank) == (0, 0):
            for name, tensor in theirs.items():
                if name == TIED and tp_rank in tied:
                    assert torch.equal(tied[tp_rank], tensor)  # the two copies never part
                    continue
                if name == TIED:
                    tied[tp_rank] = tensor
                shards.setdefault(name, []).append(tensor)
    found: dict[str, Tensor] = {}
    for name, parts in shards.items():
        row = engine.family.row(name)
        whole = parts[0] if row.tp_dim is None else torch.cat(parts, row.tp_dim)
        found[name] = pad_rows(whole, engine.config.model.vocab_size) if row.shape[0] == "V" else whole
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
