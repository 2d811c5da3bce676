"""Activation memory: what each pipeline rank holds, what a layer keeps, and what the vocabulary's loss takes.

Pipeline: the peak of a step on each rank of each schedule, against the peak of one micro-batch plus a chunk for every
further micro-batch that the schedule has under way there. Layer: what a layer keeps for the backward pass, by
recomputation, tensor and sequence parallelism, against the formulas of Korthikanti et al., arXiv 2205.05198, section 4,
without the attention weights, which torch's fused attention does not keep. Loss: output layer and cross-entropy over a
vocabulary of 50,257 on 1, 2 and 4 tensor-parallel ranks. All from torch's record of its allocations, in float32.

    python benchmarks/train/memory.py [pipeline layer loss]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing
import torch.nn.functional as F
from peak import kept_bytes, peak_bytes
from ranks import each

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mcc.models.base.config import ModelConfig
from mcc.models.base.extras import Extras, Randomness
from mcc.models.base.family import families
from mcc.models.base.init import initialize
from mcc.models.base.loss import cross_entropy
from mcc.models.base.transformer import Stage
from mcc.train.config import ParallelConfig, RunConfig, TrainConfig
from mcc.train.engine import Engine
from mcc.train.layout import make_mesh
from mcc.train.parallel.mesh import build_mesh
from mcc.train.parallel.tensor import Clock, ParallelAxes
from tests.train.parallel.test_pipeline_memory import under_way

MICROBATCHES, RANKS = 16, 4
MODEL = ModelConfig(num_layers=8, hidden_size=256, num_attention_heads=8, seq_length=256, vocab_size=1000)
TOKENS, D = MODEL.seq_length, MODEL.hidden_size
N = 4 * TOKENS * D  # bytes of a sample's hidden states
STATISTICS = 4 * TOKENS * (2 * 2 + MODEL.num_attention_heads)  # of two norms, and attention's log-sum-exp
SCHEDULES = [
    ("gpipe", 1),
    ("1f1b", 1),
    ("zero-bubble", 1),
    ("1f1b", 2),
    ("zero-bubble", 2),
    ("zbv", 2),
    ("dualpipev", 2),
]
BAR = 1.1
VOCABULARY = 50257


def pipeline() -> dict[str, float]:
    """This rank's peak in a step of every schedule, and what is expected: bytes."""
    found: dict[str, float] = {}
    for schedule, v in SCHEDULES:
        name = f"{schedule}{' interleaved' if v > 1 and schedule in ('1f1b', 'zero-bubble') else ''}"
        found[f"{name}: expected"], found[f"{name}: peak"] = _step(schedule, v)
    return found


def _step(schedule: str, v: int) -> tuple[int, int]:
    """(expected, peak) bytes of a step."""
    p, r = dist.get_world_size(), dist.get_rank()
    config = TrainConfig(
        model=MODEL,
        parallel=ParallelConfig(pp=p, vpp=v, dp=1, schedule=schedule),
        run=RunConfig(micro_batch_size=1, global_batch_size=MICROBATCHES),
    )
    engine = Engine(config, make_mesh(config))
    for parameter in engine.parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    rows = torch.randint(MODEL.vocab_size, (MICROBATCHES, TOKENS))
    tokens = engine._begin({"tokens": rows, "targets": rows}, 1)

    def alone(index: int) -> None:
        x = tokens[:1] if index == 0 else torch.randn(1, TOKENS, D, requires_grad=True)
        out = engine._run(0, index, x)
        out.backward(torch.ones_like(out))

    layers = MODEL.num_layers // (p * v)
    one = max(peak_bytes(partial(alone, index)) for index in engine.modules)
    chunk = layers * (16 * N + STATISTICS) + N  # and the stage's output
    expected = one + (under_way(schedule, p, v, MICROBATCHES, r) - 1) * chunk
    # Gradients that wait for the backward pass of weights; torch keeps all activations until then. The first stage does
    # its whole backward pass at once.
    waiting = {"zero-bubble": r + 1 if r or v > 1 else 0, "zbv": max(1, 2 * r)}.get(schedule, 0)
    expected += waiting * layers * 11 * N
    if engine.pipeline.last:  # the final norm's output and the probabilities, and while they wait their gradients
        heads = {"gpipe": MICROBATCHES, "zero-bubble": p}.get(schedule, 1) - 1
        expected += heads * (1 + (schedule == "zero-bubble")) * (N + 4 * TOKENS * MODEL.padded_vocab_size())
    return expected, peak_bytes(lambda: engine.pipeline.step(tokens, MICROBATCHES))


def layer() -> dict[str, float]:
    """Bytes that a layer keeps on this rank, and what is expected."""
    t, found = dist.get_world_size(), {}
    mesh = build_mesh(t, 1, 1)
    for sequence in (False, True) if t > 1 else (False,):
        # Sharded: queries, keys, values, attention's output, the inner activations. Sequence parallelism shards the
        # norms' inputs too; what the linear layers read is whole on every rank.
        whole = (2 / t if sequence else 2) + 2 + 12 / t
        statistics = 4 * TOKENS * (4 / t if sequence else 4)
        sums = 4 * TOKENS * MODEL.num_attention_heads / t
        expected = {"none": whole * N + statistics + sums, "selective": whole * N + statistics}
        expected["full"] = N / t if sequence else N
        axes = ParallelAxes(mesh, {}, Clock(), sequence)
        if t > 1:
            name = f"tp {t}{', sequence parallel' if sequence else ''}"
            found[f"{name}: expected"] = expected["none"]
            found[f"{name}: kept"] = (_saved(axes, 4) - _saved(axes, 2)) / 2
            continue
        for recompute, bytes_ in expected.items():
            found[f"{recompute}: expected"] = bytes_
            found[f"{recompute}: kept"] = (_kept(axes, recompute, 4, 0.0) - _kept(axes, recompute, 2, 0.0)) / 2
            found[f"dropout, {recompute}: kept"] = (_kept(axes, recompute, 4, 0.1) - _kept(axes, recompute, 2, 0.1)) / 2
    return found


def _stage(axes: ParallelAxes, layers: int, dropout: float) -> Stage:
    config = ModelConfig(
        num_layers=layers, hidden_size=D, num_attention_heads=MODEL.num_attention_heads, seq_length=TOKENS,
        vocab_size=1000, hidden_dropout=dropout, attention_dropout=dropout,
    )  # fmt: skip
    family = families.get(config.family)()
    stage = family.build(config, axes, range(layers), last=False)
    initialize(stage, family, 1)
    return stage


def _kept(axes: ParallelAxes, recompute: Any, layers: int, dropout: float) -> int:
    """What is still allocated after a forward pass."""
    stage = _stage(axes, layers, dropout)
    stage.recompute = recompute
    tokens = torch.zeros(1, TOKENS, dtype=torch.long)
    return kept_bytes(lambda: stage(tokens, Extras(random=Randomness(1, 1, 1))))


def _saved(axes: ParallelAxes, layers: int) -> int:
    """What autograd keeps after a forward pass: among ranks, gloo's threads would blur what is allocated."""
    stage = _stage(axes, layers, 0.0)
    weights = {parameter.untyped_storage().data_ptr() for parameter in stage.parameters()}
    found: dict[int, int] = {}

    def see(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(see, lambda tensor: tensor):
        out = stage(torch.zeros(1, TOKENS, dtype=torch.long))
    del out  # until here nothing that was saved gave its place to another
    return sum(found.values())


def loss() -> dict[str, float]:
    """The peak of the output layer and the loss, forward and backward: bytes."""
    t, width = dist.get_world_size(), 64
    axes = ParallelAxes(build_mesh(t, 1, 1), {}, Clock())
    rows = ModelConfig(vocab_size=VOCABULARY).padded_vocab_size(4) // t
    weight = torch.randn(rows, width, requires_grad=True)
    weight.grad = torch.zeros_like(weight)
    x, targets = torch.randn(1, 1024, width, requires_grad=True), torch.randint(VOCABULARY, (1, 1024))

    def work() -> None:
        cross_entropy(F.linear(axes.enter_vocab(x), weight), targets, axes, VOCABULARY).sum().backward()

    return {"peak": peak_bytes(work), "logits": 4.0 * 1024 * VOCABULARY}


PARTS: dict[str, Callable[[], dict[str, float]]] = {"pipeline": pipeline, "layer": layer, "loss": loss}


def _part(name: str) -> dict[str, float]:
    return PARTS[name]()


def row(what: str, measured: float, expected: float) -> dict[str, Any]:
    """A row: measured against expected."""
    ratio = measured / expected
    what = f"{what}: {measured / 2**20:.1f} MiB against {expected / 2**20:.1f} MiB expected"
    return {"what": what, "value": round(ratio, 3), "unit": "x", "bar": f"<= {BAR}", "ok": ratio <= BAR}


def rows_of(part: str) -> list[dict[str, Any]]:
    """The rows of one part."""
    if part == "pipeline":
        ranks = each(_part, RANKS, part)
        names = [key.removesuffix(": peak") for key in ranks[0] if key.endswith(": peak")]
        return [
            row(f"{name}, rank {r} of {RANKS}: peak", found[f"{name}: peak"], found[f"{name}: expected"])
            for name in names
            for r, found in enumerate(ranks)
        ]
    if part == "layer":
        found = {key: value for size in (1, 2, 4) for key, value in each(_part, size, part)[0].items()}
        rows = []
        for key, value in found.items():
            name = key.removesuffix(": kept")
            if f"{name}: expected" in found and name != key:
                rows.append(row(f"a layer keeps, {name}", value, found[f"{name}: expected"]))
            elif name != key:
                rows.append({"what": f"a layer keeps, {name}", "value": round(value / 2**20, 2), "unit": "MiB"})
        return rows
    peaks = {size: max(found["peak"] for found in each(_part, size, part)) for size in (1, 2, 4)}
    return [row(f"output layer and loss, tp {size}: peak", peak, peaks[1] / size) for size, peak in peaks.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=list(PARTS), metavar="pipeline|layer|loss")
    rows = [row for part in parser.parse_args().parts for row in rows_of(part)]
    for found in rows:
        print(f"{found['what']}: {found['value']} {found['unit']}", file=sys.stderr)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
