"""Training tokens/s of `mcc` in one process against `transformers`' own model of the same configuration and weights.

Both train from the same weights on the same batches in float32, with torch's fused attention (sdpa), its fused AdamW
and gradient clipping, taking turns step by step, so that the machine's load touches them alike; the median of the
steps' ratios counts. Their losses must agree. Bar: at least 1.0.

    python benchmarks/train/speed.py                      GPT-2 124M and BERT-base, 1 x 256 tokens
    python benchmarks/train/speed.py --tokens 512 --rounds 9 gpt2
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from ranks import alone
from torch import Tensor

from mcc.models.base.config import ModelConfig
from mcc.models.base.family import families
from mcc.models.base.forms import FORMS, pad_rows, split
from mcc.train.config import OptimConfig, ParallelConfig, RunConfig, TrainConfig
from mcc.train.engine import Engine
from mcc.train.layout import make_mesh

SHAPES = {
    "gpt2": ModelConfig(
        family="gpt2", num_layers=12, hidden_size=768, num_attention_heads=12, seq_length=1024, vocab_size=50257
    ),
    "bert": ModelConfig(
        family="bert", num_layers=12, hidden_size=768, num_attention_heads=12, seq_length=512, vocab_size=30522
    ),
}
LR = 1e-4


def make_engine(config: ModelConfig, samples: int) -> Engine:
    """Ours."""
    return Engine(
        TrainConfig(
            model=config,
            parallel=ParallelConfig(dp=1),
            optim=OptimConfig(lr=LR, lr_decay_style="constant"),
            run=RunConfig(micro_batch_size=samples, global_batch_size=samples, train_iters=10**6),
        ),
        make_mesh(TrainConfig(parallel=ParallelConfig(dp=1))),
    )


def theirs(engine: Engine, batch: dict[str, Tensor]) -> Callable[[], float]:
    """A step of the usual loop over transformers' model, which begins with our weights."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

    config, optim = engine.config.model, engine.config.optim
    family = families.get(config.family)()
    hf = AutoConfig.for_model(**family.to_hf_config(config))
    make = AutoModelForCausalLM if config.family == "gpt2" else AutoModelForMaskedLM
    model = make.from_config(hf, attn_implementation="sdpa").train()
    state = model.state_dict()
    with torch.no_grad():
        for name, row, layer in family.table(config):
            names = row.hf_names(layer)
            whole = (
                pad_rows(engine.parameters[name], config.vocab_size) if "V" in row.shape else engine.parameters[name]
            )
            for key, part in zip(names, split(whole, FORMS[row.hf_form], config, len(names)), strict=True):
                state[key].copy_(part)
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    plain = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": optim.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    betas = (optim.adam_beta1, optim.adam_beta2)
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=betas, eps=optim.adam_eps, fused=True)
    targets = batch["targets"]

    def step() -> float:
        optimizer.zero_grad()
        logits = model(batch["tokens"]).logits
        loss = torch.nn.functional.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), optim.clip_grad)
        optimizer.step()
        return loss.item()

    return step


def measure(name: str, samples: int, tokens: int, rounds: int) -> dict[str, Any]:
    """The row of one model."""
    config = dataclasses.replace(SHAPES[name], seq_length=tokens)
    rows = torch.randint(config.vocab_size, (samples, tokens + 1), generator=torch.Generator().manual_seed(0))
    batch = {"tokens": rows[:, :-1].contiguous(), "targets": rows[:, 1:].contiguous()}
    engine = make_engine(config, samples)
    steps = {"ours": lambda: engine.step(dict(batch)).loss, "theirs": theirs(engine, batch)}
    seconds: dict[str, list[float]] = {who: [] for who in steps}
    for turn in range(rounds + 1):
        losses = {}
        for who, step in steps.items():
            started = time.perf_counter()
            losses[who] = step()
            seconds[who].append(time.perf_counter() - started)
        # The same sums in another order: float32's rounding, of 12 layers, times the steps that it goes through.
        if abs(losses["ours"] - losses["theirs"]) > 1e-4 * (turn + 1):
            raise SystemExit(f"{name}, step {turn + 1}: these are not the same models: {losses}")
    # The first round allocates.
    ratio = statistics.median(b / a for a, b in zip(seconds["ours"][1:], seconds["theirs"][1:], strict=True))
    rate = samples * tokens / statistics.median(seconds["ours"][1:])
    return {
        "what": f"{name}: training tokens/s against transformers ({samples} x {tokens} tokens, {rate:.0f} tokens/s)",
        "value": round(ratio, 3),
        "unit": "x",
        "bar": ">= 1.0",
        "ok": ratio >= 1.0,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(SHAPES))
    parser.add_argument("--samples", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    with alone():
        rows = [measure(name, arguments.samples, arguments.tokens, arguments.rounds) for name in arguments.models]
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
