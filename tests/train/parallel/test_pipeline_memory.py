"""What a pipeline rank keeps for the backward pass: as many micro-batches as its schedule has under way, no more.

p pipeline ranks   v stages a rank   m micro-batches   r a rank   N bytes of a micro-batch's hidden states
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.distributed as dist

from mcc.train.parallel.wire_stage import WireStage
from tests.models.live import LiveBytes
from tests.ranks import run_ranks
from tests.train.toy import MODEL, make_engine, toy_config

WIDE = dataclasses.replace(MODEL, hidden_size=64, vocab_size=8, seq_length=32)  # the output layer is next to nothing
N = 32 * 64 * 4
# A layer keeps the inputs of its norms (2) and of its linear layers (1 + 1 + 1 + 4), queries, keys and values (3) and
# the activation's input (4); a stage its output too. Statistics: of two norms, and attention's log-sum-exp.
STATISTICS = 4 * 32 * (2 * 2 + 4)
CHUNK = (2 + 7 + 3 + 4 + 1) * N + STATISTICS
# The final norm's output and statistics, and the probabilities.
HEAD = N + 4 * 32 * 2 + 4 * 32 * 8 + 4 * 3 * 32
# Zero bubble's backward pass of inputs leaves the gradients of what linear layers (3 + 1 + 4 + 1) and norms gave.
GRADIENTS = 12 * N + 4 * 32 * 8


def under_way(schedule: str, p: int, v: int, m: int, r: int) -> int:
    """Stages' micro-batches that rank r holds at most.

    1F1B and interleaved: Narayanan et al., arXiv 2104.04473, section 2.2. Zero bubble: Qi et al., arXiv 2401.10241:
    what 1F1B's first rank holds, on every rank. DualPipeV: one more, as a forward pass goes before the backward pass
    that it overlaps.
    """
    most = {
        "gpipe": v * m,
        "1f1b": p - r if v == 1 else (v - 1) * p + 2 * (p - 1 - r) + 1,
        "zero-bubble": v * p,
        "zbv": 2 * p,
        "dualpipev": 2 * p + 1,
    }
    return min(most[schedule], v * m)


def kept(schedule: str, v: int, m: int) -> tuple[int, int]:
    """Bytes that live on this rank after a forward pass, at most, and after the step. Stages have a layer each."""
    p = dist.get_world_size()
    model = dataclasses.replace(WIDE, num_layers=p * v)
    engine = make_engine(toy_config(pp=p, parallel={"schedule": schedule, "vpp": v}, model=model, global_batch_size=m))
    for parameter in engine.parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    rows = torch.randint(model.vocab_size, (m, model.seq_length), generator=torch.Generator().manual_seed(0))
    tokens = engine._begin({"tokens": rows, "targets": rows}, 1)
    most, plain = 0, WireStage.forward_one_chunk

    def forward(stage: WireStage, *args: Any, **kwargs: Any) -> Any:
        nonlocal most
        out = plain(stage, *args, **kwargs)
        most = max(most, live.now)
        return out

    WireStage.forward_one_chunk = forward
    try:
        with LiveBytes() as live:
            engine.pipeline.step(tokens, m)
            return most, live.now
    finally:
        WireStage.forward_one_chunk = plain


def every(cases: list[tuple[str, int, int]]) -> list[tuple[int, int]]:
    return [kept(*case) for case in cases]


FLAT = [("1f1b", 1, 12), ("gpipe", 1, 5), ("zero-bubble", 1, 12)]
SEVERAL = [("gpipe", 2, 6), ("1f1b", 2, 12), ("zero-bubble", 2, 12), ("zbv", 2, 12), ("dualpipev", 2, 12)]


@pytest.mark.parametrize(("p", "cases"), [(3, FLAT), (2, SEVERAL)])
def test_a_rank_keeps_what_its_schedule_has_under_way(p, cases):
    for r, results in enumerate(run_ranks(every, p, cases)):
        for (schedule, v, m), (most, after) in zip(cases, results, strict=True):
            count = under_way(schedule, p, v, m, r)
            heads = {"gpipe": m, "zero-bubble": p}.get(schedule, 1)
            pending = r if schedule == "zero-bubble" else 0  # backward passes of weights
            messages = 2 * v * N  # one on its way to each stage, and one from it
            bound = count * CHUNK + heads * HEAD + pending * GRADIENTS + messages + 64 * m  # and scalars
            assert count * (CHUNK - N) <= most <= bound, f"{schedule}, rank {r}: {(most - bound) / N:.1f} N too much"
            assert after < N, f"{schedule}, rank {r}: {after} bytes stay after the step"
