"""What follows the backward pass, on the CPU: the norm of the gradients, AdamW, and ZeRO's shares.

Norm: `clip_`'s sum (rows in float32, their sum in float64) against a float64 copy of every gradient. AdamW: torch's
fused kernel, which `mcc train` uses, against foreach and one tensor at a time. Both at the shapes of GPT-2 124M, of
which two layers are there; all take turns, and the median of the rounds' ratios counts. ZeRO: what a rank keeps of the
moments, and with `--fully-shard` of the parameters, and what it sends, on 4 replicas of a small model.

    python benchmarks/train/optimizer.py [--rounds 5]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.multiprocessing
from ranks import each
from torch import Tensor

from mcc.models.base.config import ModelConfig
from mcc.models.base.family import families, global_shape
from mcc.train.config import ParallelConfig, RunConfig, TrainConfig
from mcc.train.engine import Engine
from mcc.train.layout import make_mesh
from mcc.train.optim import optimizers
from mcc.train.optim.config import OptimConfig
from mcc.train.parallel.gradients import _squares

GPT2 = ModelConfig(num_layers=2, hidden_size=768, num_attention_heads=12, seq_length=1024, vocab_size=50257)
SMALL = ModelConfig(num_layers=4, hidden_size=256, num_attention_heads=4, seq_length=128, vocab_size=8192)


def tensors() -> dict[str, torch.nn.Parameter]:
    """Parameters with gradients."""
    table = families.get("gpt2")().table(GPT2)
    found = {name: torch.nn.Parameter(torch.randn(global_shape(row, GPT2))) for name, row, _ in table}
    for parameter in found.values():
        parameter.grad = torch.randn_like(parameter) * 1e-3
    return found


def turns(ways: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each way in each round, the first left out: it allocates."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
    return {name: times[1:] for name, times in seconds.items()}


def compare(what: str, ways: dict[str, Callable[[], Any]], rounds: int) -> list[dict[str, Any]]:
    """How many times as long the others take as the first."""
    seconds = turns(ways, rounds)
    ours, *others = seconds
    return [
        {
            "what": f"{what}: {other} against {ours} ({1000 * statistics.median(seconds[ours]):.0f} ms)",
            "value": round(statistics.median(b / a for a, b in zip(seconds[ours], seconds[other], strict=True)), 2),
            "unit": "x",
        }
        for other in others
    ]


def norms(rounds: int) -> list[dict[str, Any]]:
    grads: list[Tensor] = [p.grad for p in tensors().values() if p.grad is not None]
    ways = {
        "rows in float32": lambda: sum(_squares(grad) for grad in grads),
        "float64 copies": lambda: sum(grad.double().square().sum() for grad in grads),
    }
    return compare("norm of the gradients", ways, rounds)


def adamw(rounds: int) -> list[dict[str, Any]]:
    parameters = tensors()
    config = OptimConfig(lr=1e-4)
    groups = optimizers.groups(parameters, config.weight_decay)
    ways = {
        "fused": optimizers.build(parameters, config).step,
        "foreach": torch.optim.AdamW(groups, lr=1e-4, foreach=True).step,
        "one at a time": torch.optim.AdamW(groups, lr=1e-4, foreach=False).step,
    }
    return compare("AdamW", ways, rounds)


def _share(sharding: dict[str, Any]) -> dict[str, int]:
    """One of 4 replicas: the elements that it keeps after a step."""
    config = TrainConfig(
        model=SMALL,
        parallel=ParallelConfig(dp=4, **sharding),
        run=RunConfig(micro_batch_size=1, global_batch_size=4),
    )
    engine = Engine(config, make_mesh(config))
    rows = torch.randint(SMALL.vocab_size, (1, SMALL.seq_length + 1))
    engine.step({"tokens": rows[:, :-1].contiguous(), "targets": rows[:, 1:].contiguous()})
    moments = sum(t.numel() for tensors_ in engine.update.moments().values() for t in tensors_.values())
    parameters = sum(p.numel() for p in engine.parameters.values())
    sites = ("dp.grad", "zero.grads", "zero.weights", "embedding")
    sent = {site: n for site, n in engine.mesh.wire.take().items() if site in sites}
    return {"moments": moments, "parameters": parameters, "bytes": sum(sent.values())}


def shares() -> list[dict[str, Any]]:
    kept: dict[str, dict[str, int]] = {}
    for name, sharding in (("plain", {}), ("--zero 1", {"zero": 1}), ("--fully-shard", {"fully_shard": True})):
        ranks = each(_share, 4, sharding)
        kept[name] = {key: max(rank[key] for rank in ranks) for key in ranks[0]}
    return [
        {
            "what": f"{name} on 4 replicas: {key} of a rank",
            "value": round(found[key] / kept["plain"][key], 3),
            "unit": "x",
        }
        for name, found in kept.items()
        if name != "plain"
        for key in found
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    print(json.dumps([*norms(rounds), *adamw(rounds), *shares()]))


if __name__ == "__main__":
    main()
