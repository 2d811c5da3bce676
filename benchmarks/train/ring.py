"""Ring attention: memory of a rank as the sequence grows with the ranks, and how evenly zig-zag deals the work.

Memory: the largest sum of live tensors during a forward and a backward pass, from torch's own record of every
allocation, kernels' temporaries included, above what was there before (weights and their gradients). A sequence of
N x L tokens on N ranks against L tokens on one with torch's fused attention: a GPT and a BERT, and attention alone with
its inputs counted.

Balance: time that each rank's thread computes (waiting for messages not counted) in causal attention, the slowest rank
against the mean, contiguous and zig-zag.

    python benchmarks/train/ring.py [--ranks 4] [--length 1024]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.multiprocessing
from peak import peak_bytes
from ranks import each
from torch import Tensor

from mcc.models.base.axes import Axes
from mcc.models.base.config import ModelConfig
from mcc.models.base.extras import Extras
from mcc.models.base.family import families
from mcc.models.base.init import initialize
from mcc.models.base.loss import cross_entropy
from mcc.train.compress.collective import Collective
from mcc.train.compress.wire import Wire
from mcc.train.parallel.mesh import build_mesh
from mcc.train.parallel.ring import Ring
from mcc.train.parallel.tensor import Clock, ParallelAxes
from mcc.train.parallel.tokens import Dealt

BAR = 1.25
HEADS, HEAD_DIM = 12, 64  # GPT-2 124M


def model_pass(family_name: str, axes: Axes, tokens: int, length: int) -> Callable[[], None]:
    """A forward and a backward pass over this rank's `tokens` of a sequence of `length`."""
    config = ModelConfig(
        family=family_name, num_layers=4, hidden_size=256, num_attention_heads=8, seq_length=length, vocab_size=1000
    )
    family = families.get(family_name)()
    module = family.build(config, axes, range(config.num_layers))
    initialize(module, family, 1)
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    ids = torch.randint(config.vocab_size, (1, tokens))
    padding = None if family.blueprint.causal else torch.ones(1, tokens, dtype=torch.bool)
    return lambda: cross_entropy(module(ids, Extras(padding=padding)), ids, axes, config.vocab_size).sum().backward()


def attention_pass(attend: Callable[..., Tensor], causal: bool, tokens: int) -> Callable[[], None]:
    """A forward and a backward pass of attention alone."""

    def work() -> None:
        q, k, v = (torch.randn(1, HEADS, tokens, HEAD_DIM, requires_grad=True) for _ in range(3))
        grad = torch.randn(1, HEADS, tokens, HEAD_DIM)
        attend(q, k, v, causal).backward(grad)

    return work


def found_on_a_rank(length: int) -> dict[str, float]:
    """Peaks in bytes and seconds, by name."""
    rank, size = dist.get_rank(), dist.get_world_size()
    mesh = build_mesh(1, 1, 1, size)
    found: dict[str, float] = {}
    for name in ("gpt2", "bert"):
        causal = families.get(name)().blueprint.causal
        axes = ParallelAxes(mesh, {}, Clock(), zigzag=causal) if size > 1 else Axes()
        found[name] = peak_bytes(model_pass(name, axes, length, size * length))
    for causal in (True, False):
        axes = ParallelAxes(mesh, {}, Clock(), zigzag=causal) if size > 1 else Axes()
        found[f"attention, causal={causal}"] = peak_bytes(attention_pass(axes.attend, causal, length))
    for zigzag in (False, True):
        group = Collective(dist.group.WORLD, size, rank, Wire(), "cp.kv")
        ring = Ring(keys=group, grads=group, dealt=Dealt(size, rank, zigzag))
        work = attention_pass(ring.attend, True, length)
        work()
        dist.barrier()
        start = time.thread_time()
        work()
        found[f"seconds, zigzag={zigzag}"] = time.thread_time() - start
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--length", type=int, default=1024, help="tokens of each rank")
    options = parser.parse_args()
    (alone,) = each(found_on_a_rank, 1, options.length)
    ranks = each(found_on_a_rank, options.ranks, options.length)
    rows = []
    for name in ("gpt2", "bert", "attention, causal=True", "attention, causal=False"):
        most = max(rank[name] for rank in ranks)
        what = f"{name}: peak memory, {options.ranks} x {options.length} tokens on {options.ranks} ranks against one"
        print(f"{what}: {most / 2**20:.1f} MiB / {alone[name] / 2**20:.1f} MiB", file=sys.stderr)
        ratio = most / alone[name]
        rows.append({"what": what, "value": round(ratio, 3), "unit": "x", "bar": f"<= {BAR}", "ok": ratio <= BAR})
    for zigzag in (False, True):
        seconds = [rank[f"seconds, zigzag={zigzag}"] for rank in ranks]
        ratio = max(seconds) / (sum(seconds) / len(seconds))
        how = "zig-zag" if zigzag else "contiguous"
        rows.append({"what": f"causal attention, {how}: slowest rank against the mean", "value": round(ratio, 3)})
    print(json.dumps(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
