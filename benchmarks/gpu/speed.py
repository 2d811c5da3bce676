"""Training tokens/s and the utilisation of the device (MFU), against `transformers`' own model in the usual loop.

Both have float32 weights, torch's fused attention and fused AdamW, clip gradients, and take turns step by step; both
are compiled by torch.compile, ours layer by layer, theirs from the tokens to the loss. bf16 is theirs by autocast.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from ranks import each
from torch import Tensor

from mcc.models.base.config import ModelConfig
from mcc.models.base.family import families
from mcc.train.config import OptimConfig, ParallelConfig, RunConfig, TrainConfig
from mcc.train.engine import DTYPES, Engine
from mcc.train.flops import flops_per_token, peak_flops
from mcc.train.layout import make_mesh

BASE = ModelConfig(num_layers=12, hidden_size=768, num_attention_heads=12, seq_length=1024, vocab_size=50257)
# The shape, and samples of a step.
SHAPES = {
    "GPT-2 124M": (BASE, 8),
    "BERT-base": (replace(BASE, family="bert", seq_length=512, vocab_size=30522), 16),
}
LR = 1e-4


def steps(device: torch.device, model: ModelConfig, samples: int, rounds: int, precision: str, fuse: bool) -> Any:
    """Seconds of our and of their steps."""
    rows = torch.randint(model.vocab_size, (samples, model.seq_length + 1), generator=torch.Generator().manual_seed(0))
    batch = {"tokens": rows[:, :-1].contiguous(), "targets": rows[:, 1:].contiguous()}
    ways = {
        "ours": _ours(device, model, samples, batch, precision, fuse),
        "theirs": _theirs(device, model, batch, precision, fuse),
    }
    seconds: dict[str, list[float]] = {who: [] for who in ways}
    for _ in range(rounds + 3):  # the first compile and allocate
        for who, step in ways.items():
            _settle(device)
            started = time.perf_counter()
            step()
            _settle(device)
            seconds[who].append(time.perf_counter() - started)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {"seconds": {who: found[3:] for who, found in seconds.items()}, "peak": peak_flops(name, DTYPES[precision])}


def _ours(
    device: torch.device, model: ModelConfig, samples: int, batch: dict[str, Tensor], precision: str, fuse: bool
) -> Callable[[], Any]:
    config = TrainConfig(
        model=model,
        parallel=ParallelConfig(dp=1),
        optim=OptimConfig(lr=LR, lr_decay_style="constant"),
        run=RunConfig(
            micro_batch_size=samples,
            global_batch_size=samples,
            train_iters=10**6,
            precision=precision,  # type: ignore[arg-type]
            compile=fuse,
        ),
    )
    engine = Engine(config, make_mesh(config, device))
    return lambda: engine.step(dict(batch))


def _theirs(
    device: torch.device, model: ModelConfig, batch: dict[str, Tensor], precision: str, fuse: bool
) -> Callable[[], Any]:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

    hf = AutoConfig.for_model(**families.get(model.family)().to_hf_config(model))
    make = AutoModelForCausalLM if model.family == "gpt2" else AutoModelForMaskedLM
    net = make.from_config(hf, attn_implementation="sdpa").to(device).train()
    groups = [
        {"params": [p for p in net.parameters() if p.dim() >= 2], "weight_decay": 0.01},
        {"params": [p for p in net.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LR, fused=True)
    tokens, targets = (batch[name].to(device) for name in ("tokens", "targets"))

    def loss_of(tokens: Tensor, targets: Tensor) -> Tensor:
        narrow = torch.autocast(device.type, DTYPES[precision]) if precision != "fp32" else nullcontext()
        with narrow:
            logits = net(tokens).logits
        return torch.nn.functional.cross_entropy(logits.view(-1, logits.shape[-1]).float(), targets.reshape(-1))

    compute = torch.compile(loss_of, dynamic=False) if fuse else loss_of

    def step() -> float:
        optimizer.zero_grad()
        loss = compute(tokens, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return step


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(device: str, tiny: bool, fuse: bool = True) -> list[dict[str, Any]]:
    """The rows of every shape."""
    rows: list[dict[str, Any]] = []
    precision, rounds = ("bf16" if device == "cuda" else "fp32"), (3 if tiny else 20)
    for name, (full, many) in SHAPES.items():
        model, samples = full, many
        if tiny:
            model = replace(full, num_layers=2, hidden_size=64, num_attention_heads=2, seq_length=32, vocab_size=500)
            samples = 2
        (found,) = each(steps, 1, device, model, samples, rounds, precision, fuse)
        ours, theirs = found["seconds"]["ours"], found["seconds"]["theirs"]
        tokens = samples * model.seq_length
        rate = tokens / statistics.median(ours)
        ratio = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
        how = f"{name}, {samples} x {model.seq_length} tokens, {precision}{', compiled' if fuse else ''}"
        rows.append({"what": f"{how}: training", "value": round(rate), "unit": "tokens/s"})
        if found["peak"]:
            used = rate * flops_per_token(model) / found["peak"]
            rows.append({"what": f"{how}: utilisation (MFU)", "value": round(used, 3)})
        row: dict[str, Any] = {"what": f"{how}: against transformers", "value": round(ratio, 3), "unit": "x"}
        rows.append(row if tiny else {**row, "bar": ">= 1.0", "ok": ratio >= 1.0})
    return rows
