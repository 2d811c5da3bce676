"""Training with `--compile` against without, in one process: GPT-2 124M's shape with fewer layers.

Both take turns step by step on the same batch, so that the machine's load touches them alike; the median of the
steps' ratios counts. With `--dropout` a layer is several graphs: attention that drops weights is outside of them.

    python benchmarks/train/compiled.py [--layers 4] [--tokens 256] [--samples 2] [--dropout 0.1] [--rounds 7]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch
from ranks import alone

from mcc.models.base.config import ModelConfig
from mcc.train.compiled import check_compile
from mcc.train.config import OptimConfig, ParallelConfig, RunConfig, TrainConfig
from mcc.train.engine import Engine
from mcc.train.layout import make_mesh


def _config(options: argparse.Namespace, fuse: bool) -> TrainConfig:
    model = ModelConfig(
        num_layers=options.layers,
        hidden_size=768,
        num_attention_heads=12,
        seq_length=options.tokens,
        vocab_size=50257,
        hidden_dropout=options.dropout,
        attention_dropout=options.dropout,
    )
    size, steps = options.samples, 10**6
    run = RunConfig(micro_batch_size=size, global_batch_size=size, train_iters=steps, compile=fuse, device="cpu")
    return TrainConfig(model=model, parallel=ParallelConfig(dp=1), optim=OptimConfig(lr=1e-4), run=run)


def measure(options: argparse.Namespace) -> dict[str, object]:
    """The row."""
    rows = torch.randint(50257, (options.samples, options.tokens + 1), generator=torch.Generator().manual_seed(0))
    batch = {"tokens": rows[:, :-1].contiguous(), "targets": rows[:, 1:].contiguous()}
    check_compile(_config(options, True))
    engines = {fuse: Engine(_config(options, fuse), make_mesh(_config(options, fuse))) for fuse in (False, True)}
    seconds: dict[bool, list[float]] = {False: [], True: []}
    losses: dict[bool, float] = {}
    for _ in range(options.rounds + 1):
        for fuse, engine in engines.items():
            started = time.perf_counter()
            losses[fuse] = engine.step(dict(batch)).loss
            seconds[fuse].append(time.perf_counter() - started)
    ratio = statistics.median(a / b for a, b in zip(seconds[False][1:], seconds[True][1:], strict=True))
    return {
        "what": f"--compile against without: {options.layers} layers of 768, {options.samples} x {options.tokens} "
        f"tokens, dropout {options.dropout:g}",
        "value": round(ratio, 3),
        "unit": "x",
        "step_s": round(statistics.median(seconds[True][1:]), 3),
        "first_step_s": round(seconds[True][0], 1),
        "losses_apart": float(f"{abs(losses[True] - losses[False]):.1g}"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with alone():
        print(json.dumps([measure(options)]))


if __name__ == "__main__":
    main()
