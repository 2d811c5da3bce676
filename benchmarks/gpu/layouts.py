"""Every layout, several ranks on one GPU, gives one process's losses: gloo carries what passes through pinned memory.

Codecs lose something, and 16-bit numbers round by the order in which they are added, so their losses may differ more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from ranks import each
from torch import Tensor

from mcc.models.base.config import ModelConfig
from mcc.models.base.family import families
from mcc.train.config import OptimConfig, ParallelConfig, RunConfig, TrainConfig
from mcc.train.engine import Engine
from mcc.train.layout import make_mesh

SAMPLES, STEPS = 8, 8
MODEL = ModelConfig(
    num_layers=4, hidden_size=256, num_attention_heads=8, seq_length=128, vocab_size=1003,
    make_vocab_size_divisible_by=8,
)  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {"family": "gpt2"},
    "bert": {"family": "bert", "head": "pretraining"},
    "llama": {"family": "llama", "num_query_groups": 4, "ffn_hidden_size": 512},
}
SITES = ("tp.forward", "tp.backward", "pp.forward", "pp.backward", "dp.grad")


@dataclass(frozen=True)
class Case:
    """A layout, and how far its losses may be from one process's."""

    name: str
    family: str = "gpt2"
    parallel: dict[str, Any] = field(default_factory=dict)
    precision: str = "fp32"
    compress: tuple[str, ...] = ()
    hidden_dropout: float = 0.0
    within: float = 1e-5

    @property
    def ranks(self) -> int:
        """How many it takes."""
        return math.prod(self.parallel.get(axis, 1) for axis in ("tp", "pp", "dp", "cp"))

    @property
    def alone(self) -> Case:
        """The same in one process."""
        return replace(self, parallel={}, compress=())


def cases(ranks: int) -> list[Case]:
    """What is tried on so many ranks."""
    quantize = tuple(f"{site}=quantize:bits=8" for site in SITES)
    lazy = ("pp.backward=powersgd:rank=8,feedback=on", "dp.grad=powersgd:rank=8,feedback=on")
    sequence = {"tp": 2, "sequence_parallel": True}
    if ranks == 2:
        found = [
            Case("tp2", parallel={"tp": 2}),
            Case("pp2 interleaved", "llama", {"pp": 2, "vpp": 2}),
            Case("cp2", "bert", {"cp": 2}),
            Case("pp2, coded", "gpt2", {"pp": 2}, compress=quantize[2:4], within=0.05),
            Case("dp2 zero1, coded with memory", "gpt2", {"dp": 2, "zero": 1}, compress=lazy[1:], within=0.2),
            Case("tp2 sequence, bf16", "llama", sequence, "bf16", within=0.02),
            Case("pp2, fp16", "bert", {"pp": 2}, "fp16", within=0.02),
        ]
    else:
        found = []
        for family in FAMILIES:
            found += [
                Case("tp4", family, {"tp": 4}),
                Case("tp2 pp2", family, {"tp": 2, "pp": 2}),
                Case("tp2 cp2", family, {"tp": 2, "cp": 2}),
                Case("cp2 dp2 zero1", family, {"cp": 2, "dp": 2, "zero": 1}),
                Case("tp2 sequence pp2 zbv", family, {**sequence, "pp": 2, "vpp": 2, "schedule": "zbv"}),
                Case("tp2 cp2, bf16", family, {"tp": 2, "cp": 2}, "bf16", within=0.02),
                Case("tp2 pp2, fp16", family, {"tp": 2, "pp": 2}, "fp16", within=0.02),
            ]
        found += [
            Case("pp4", "gpt2", {"pp": 4}),
            Case("pp2 interleaved dp2", "llama", {"pp": 2, "vpp": 2, "dp": 2}),
            Case("tp2 pp2, dropout", "gpt2", {"tp": 2, "pp": 2}, hidden_dropout=0.1),
            Case("tp2 pp2 recomputed", "llama", {"tp": 2, "pp": 2, "recompute_granularity": "full"}),
            Case("tp2 pp2, coded", "gpt2", {"tp": 2, "pp": 2}, compress=quantize[:4], within=0.05),
            Case("tp2 dp2, coded", "bert", {"tp": 2, "dp": 2}, compress=quantize[4:], within=0.05),
            Case("pp2 dp2, coded with memory", "gpt2", {"pp": 2, "dp": 2}, compress=lazy, within=0.2),
            Case("tp2 pp2, coded, bf16", "llama", {"tp": 2, "pp": 2}, "bf16", quantize[:4], within=0.05),
        ]
    assert all(case.ranks == ranks for case in found)
    return found


def losses(device: torch.device, tried: list[Case], model: ModelConfig) -> list[list[float]]:
    """The losses of each case's steps, on this rank's part of it."""
    return [_losses(device, case, model) for case in tried]


def _losses(device: torch.device, case: Case, model: ModelConfig) -> list[float]:
    model = replace(model, hidden_dropout=case.hidden_dropout, **FAMILIES[case.family])
    config = TrainConfig(
        model=model,
        parallel=ParallelConfig(**case.parallel),
        optim=OptimConfig(lr=1e-3, lr_warmup_iters=2, adam_eps=1e-6, initial_loss_scale=1024.0),
        run=RunConfig(micro_batch_size=1, global_batch_size=SAMPLES, train_iters=STEPS, precision=case.precision),  # type: ignore[arg-type]
        compress=case.compress,
    )
    engine = Engine(config, make_mesh(config, device))
    mesh = engine.mesh
    return [engine.step(_batch(step, model, mesh.dp_rank, mesh.dp)).loss for step in range(STEPS)]


def _batch(step: int, model: ModelConfig, replica: int, replicas: int) -> dict[str, Tensor]:
    """A replica's samples: random walks over the vocabulary, so that there is something to learn."""
    generator = torch.Generator().manual_seed(step)
    starts = torch.randint(model.vocab_size, (SAMPLES, 1), generator=generator)
    walks = starts + torch.randint(1, 4, (SAMPLES, model.seq_length + 1), generator=generator).cumsum(1)
    rows = walks % model.vocab_size
    batch = {"tokens": rows[:, :-1].contiguous(), "targets": rows[:, 1:].contiguous()}
    if not families.get(model.family)().blueprint.causal:
        T = model.seq_length
        padding = torch.arange(T) < torch.tensor([T, T - 5, T // 2, T, T - 1, T, T // 3, T])[:, None]
        masked = (torch.rand(SAMPLES, T, generator=generator) < 0.3) & padding
        batch = {
            "tokens": rows[:, :-1].masked_fill(masked, 0),
            "targets": rows[:, :-1].contiguous(),
            "weights": masked.float(),
            "padding": padding,
            "labels": rows[:, 0] % 2,
            "label_weights": torch.ones(SAMPLES),
        }
    return {name: tensor.chunk(replicas)[replica] for name, tensor in batch.items()}


def measure(device: str, tiny: bool) -> list[dict[str, Any]]:
    """The rows: how far each layout is from one process."""
    model = replace(MODEL, hidden_size=64, seq_length=32, vocab_size=101) if tiny else MODEL
    tried = cases(2 if tiny else 4)
    singles = list({repr(case.alone): case.alone for case in _unnamed(tried)}.values())
    (found,) = each(losses, 1, device, singles, model)
    single = {repr(case): values for case, values in zip(singles, found, strict=True)}
    rows = []
    by_rank = each(losses, tried[0].ranks, device, tried, model)
    for index, case in enumerate(tried):
        (alone,) = (single[repr(bare.alone)] for bare in _unnamed([case]))
        off = max(abs(a - b) for values in by_rank for a, b in zip(values[index], alone, strict=True))
        what = f"{case.family}, {case.ranks} ranks, {case.name}: furthest loss of {STEPS} from one process's"
        rows.append(
            {"what": what, "value": float(f"{off:.2g}"), "bar": f"<= {case.within:g}", "ok": off <= case.within}
        )
    return rows


def measure_nccl(device: str, tiny: bool) -> list[dict[str, Any]]:
    """The rows: one process with NCCL against one with gloo."""
    if device != "cuda":
        return [{"what": "one process with NCCL: left out, for NCCL wants a GPU"}]
    model = replace(MODEL, hidden_size=64, seq_length=32, vocab_size=101) if tiny else MODEL
    tried = [Case("", family, precision=precision) for family in FAMILIES for precision in ("fp32", "bf16")]
    (plain,), (found,) = (each(losses, 1, device, tried, model, nccl=nccl) for nccl in (False, True))
    rows = []
    for case, expected, values in zip(tried, plain, found, strict=True):
        off = max(abs(a - b) for a, b in zip(values, expected, strict=True))
        what = f"{case.family}, {case.precision}, one process with NCCL: furthest loss of {STEPS} from gloo's"
        rows.append({"what": what, "value": float(f"{off:.2g}"), "bar": "<= 1e-05", "ok": off <= 1e-5})
    return rows


def _unnamed(tried: list[Case]) -> list[Case]:
    """The cases without what says nothing of one process."""
    return [replace(case, name="", within=0.0) for case in tried]
