"""What the engine itself takes of a step at GPT-2 124M's shape, read off the trace of a run of one process.

The engine's part is all that lies outside forward, backward, the optimizer and communication: cutting batches, taking
them from the data, counting bytes, writing metrics.jsonl. Every step is told of, and none is warm-up but the first. The
shorter the samples, the larger that part: 256 tokens are a quarter of the model's.

    python benchmarks/train/overhead.py [--tokens 256] [--steps 3]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from mcc.data.indexed import IndexedWriter
from mcc.models.base.config import ModelConfig
from mcc.train.config import DataConfig, ObserveConfig, RunConfig, TrainConfig
from mcc.train.launch import run
from mcc.train.trace import seconds

VOCABULARY = 50257
LIMIT = 0.05  # of a step
OWN = ("engine", "data", "log")


def measure(tokens: int, steps: int, folder: Path) -> dict[str, float]:
    """Seconds by kind of the traced steps."""
    generator = np.random.default_rng(0)
    with IndexedWriter(folder / "tokens", np.dtype("<u2")) as writer:
        for _ in range(100):
            writer.add(generator.integers(0, VOCABULARY, 500))
    model = ModelConfig(
        num_layers=12, hidden_size=768, num_attention_heads=12, seq_length=tokens, vocab_size=VOCABULARY
    )
    trace = folder / "trace.json"
    run(
        TrainConfig(
            model=model,
            data=DataConfig(data_path=str(folder / "tokens"), split="1,0,0"),
            run=RunConfig(micro_batch_size=1, global_batch_size=2, train_iters=steps + 1, eval_iters=0),
            observe=ObserveConfig(trace=str(trace), trace_steps=f"2-{steps + 1}"),
        )
    )
    return seconds(trace)


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--steps", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(args.tokens, args.steps, Path(folder))
    step = found.pop("step")
    shares = {kind: round(value / step, 5) for kind, value in sorted(found.items(), key=lambda item: -item[1])}
    own = sum(found.get(kind, 0.0) for kind in OWN) / step
    print(f"a step of {step / args.steps:.2f} s: {shares}", file=sys.stderr)
    row = {"what": f"the engine's own share of a step at GPT-2 124M ({args.tokens} tokens a sample)"}
    print(json.dumps([{**row, "value": round(own, 5), "bar": f"<= {LIMIT}", "ok": own <= LIMIT}]))


if __name__ == "__main__":
    main()
