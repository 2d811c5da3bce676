"""Peak memory of a step, above what stays between steps: recomputation, and the loss over a sharded vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from ranks import each
from speed import SHAPES
from torch.profiler import ProfilerActivity, profile

from mcc.models.base.config import ModelConfig
from mcc.models.base.loss import cross_entropy
from mcc.train.config import ParallelConfig, RunConfig, TrainConfig
from mcc.train.engine import Engine
from mcc.train.layout import make_mesh
from mcc.train.parallel.mesh import build_mesh
from mcc.train.parallel.tensor import Clock, ParallelAxes

_MIB = 2**20


def peak(device: torch.device, work: Callable[[], Any]) -> int:
    """The most bytes that `work` takes at a time, above what was there before."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


def of_recomputation(device: torch.device, model: ModelConfig, samples: int, precision: str) -> dict[str, int]:
    """Peaks of a training step, by what is recomputed."""
    rows = torch.randint(model.vocab_size, (samples, model.seq_length + 1))
    batch = {"tokens": rows[:, :-1].contiguous(), "targets": rows[:, 1:].contiguous()}
    found = {}
    for what in ("none", "selective", "full"):
        config = TrainConfig(
            model=model,
            parallel=ParallelConfig(dp=1, recompute_granularity=what),  # type: ignore[arg-type]
            run=RunConfig(micro_batch_size=samples, global_batch_size=samples, precision=precision),  # type: ignore[arg-type]
        )
        engine = Engine(config, make_mesh(config, device))
        engine.step(dict(batch))  # makes the optimizer's state
        found[what] = peak(device, lambda engine=engine: engine.step(dict(batch)))  # type: ignore[misc]
        del engine
    return found


def of_loss(device: torch.device, ranks: int, tokens: int, width: int, vocabulary: int) -> int:
    """The peak of the output layer and the loss, forward and backward, on one of `ranks` shards of the vocabulary."""
    mesh = build_mesh(ranks, 1, 1, compute=device)
    axes = ParallelAxes(mesh, {}, Clock())
    x = torch.randn(tokens, width, device=device, requires_grad=True)
    weight = torch.randn(vocabulary // ranks, width, device=device, requires_grad=True)
    targets = torch.randint(vocabulary, (tokens,), device=device)

    def work() -> None:
        cross_entropy(F.linear(axes.enter_vocab(x), weight), targets, axes, vocabulary).mean().backward()
        x.grad = weight.grad = None

    work()
    return peak(device, work)


def measure(device: str, tiny: bool) -> list[dict[str, Any]]:
    """The rows."""
    model, samples = SHAPES["GPT-2 124M"]
    precision, tokens, width, vocabulary, ranks = "bf16", 8192, 768, 50304, 4
    if tiny:
        model, samples = replace(model, num_layers=4, hidden_size=64, num_attention_heads=4, seq_length=128), 2
        model, precision = replace(model, vocab_size=128), "fp32"
        tokens, width, vocabulary, ranks = 512, 32, 4096, 2
    (peaks,) = each(of_recomputation, 1, device, model, samples, precision)
    rows: list[dict[str, Any]] = []
    before = None
    for what, found in peaks.items():
        row: dict[str, Any] = {
            "what": f"peak of a step, {samples} x {model.seq_length} tokens, recomputed: {what}",
            "value": round(found / _MIB, 1),
            "unit": "MiB",
        }
        if what == "full" and before is not None:
            row |= {"bar": "< selective", "ok": found < before}
        rows.append(row)
        before = found
    (alone,) = each(of_loss, 1, device, 1, tokens, width, vocabulary)
    shared = max(each(of_loss, ranks, device, ranks, tokens, width, vocabulary))
    ratio, bar = shared / alone, 1.25 / ranks
    rows.append({
        "what": f"loss over {vocabulary} tokens' logits, peak of one of {ranks} ranks against one process",
        "value": round(ratio, 3),
        "unit": "x",
        "bar": f"<= {bar:g}",
        "ok": ratio <= bar,
    })  # fmt: skip
    return rows
