"""`--compile` changes the speed and nothing else. The backend is one that needs no C++ compiler, but for one test."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from mcc.core.errors import MccError, UsageError
from mcc.train import compiled, loop, metrics
from mcc.train.compiled import check_compile
from mcc.train.config import TrainConfig
from mcc.train.sources.source import Evaluation
from tests.ranks import run_ranks
from tests.slow import of_every_change
from tests.train.job import job_config, tokens
from tests.train.toy import MODEL, make_engine, toy_batch, toy_config, train, whole_parameters, with_run

STEPS = 3
DROPS = {"hidden_dropout": 0.1, "attention_dropout": 0.1}
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "bert": {"family": "bert", "head": "pretraining"},
    "llama": {"family": "llama", "num_query_groups": 2, "ffn_hidden_size": 48},
}
SELECTIVE, FULL = {"recompute_granularity": "selective"}, {"recompute_granularity": "full"}
# The family, and more of the model, the layout and the run.
LAYOUTS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {}),
    "bert": ("bert", {}),
    "llama-selective": ("llama", {"parallel": SELECTIVE}),
    "dropout-selective": ("gpt2", {"model": DROPS, "parallel": SELECTIVE}),
    "dropout-full": ("bert", {"model": DROPS, "parallel": FULL}),
    "bf16": ("llama", {"precision": "bf16"}),
    "fp16": ("bert", {"precision": "fp16"}),
    "tp2-sequence-coded": (
        "gpt2",
        {
            "tp": 2,
            "model": DROPS,
            "parallel": {"sequence_parallel": True},
            "compress": ("tp.forward=quantize:bits=8", "tp.backward=quantize:bits=8"),
        },
    ),
    "pp2-interleaved-coded": (
        "llama",
        {
            "pp": 2,
            "parallel": {"vpp": 2, **FULL},
            "compress": ("pp.forward=quantize:bits=8", "pp.backward=quantize:bits=8"),
        },
    ),
    "cp2-selective": ("bert", {"parallel": {"cp": 2, **SELECTIVE}}),
    "dp2-zero1-coded": ("gpt2", {"dp": 2, "parallel": {"zero": 1}, "compress": ("dp.grad=powersgd:rank=2",)}),
    "dp2-fully-shard": ("llama", {"dp": 2, "parallel": {"fully_shard": True}}),
}

# Those of a check of every change; `make slow` has all.
EVERY = ("llama-selective", "bf16", "tp2-sequence-coded", "dp2-fully-shard")

# Graphs of a rank: the trial's, and for training and for evaluation those that its layers share: one, and more where a
# layer ends them. The layers that tensor-parallel ranks cut are in ten pieces (twelve before torch 2.13).
GRAPHS = {"tp2-sequence-coded": 24, "cp2-selective": 8, "dropout-selective": 6, "dropout-full": 6}


def _config(family: str, model: dict[str, Any] | None = None, **more: Any) -> TrainConfig:
    layers = 2 * more.get("parallel", {}).get("vpp", 1)
    shape = dataclasses.replace(MODEL, num_layers=layers, **FAMILIES[family], **(model or {}))
    config = toy_config(model=shape, micro_batch_size=2, **more)
    return dataclasses.replace(config, optim=dataclasses.replace(config.optim, initial_loss_scale=1024.0))


class _Held:
    """The toy's batches as held-out samples."""

    def __init__(self, config: TrainConfig) -> None:
        self.model = config.model

    def batch(self, first: int, count: int, replica: int, replicas: int) -> Any:
        return toy_batch(first, replica, replicas, self.model)


def _trained(config: TrainConfig) -> Any:
    """Losses of some steps, of an evaluation, of another step; the parameters; and how many graphs there are."""
    torch.manual_seed(0)
    torch._dynamo.reset()
    counters.clear()
    engine = make_engine(config)
    losses = train(engine, STEPS)
    held = Evaluation(name="valid", source=_Held(config), samples=8)  # type: ignore[arg-type]
    losses += [engine.evaluate(held)["loss"], *train(engine, 1)]
    return losses, whole_parameters(engine), counters["stats"]["unique_graphs"]


def _both(config: TrainConfig) -> tuple[Any, Any]:
    compiled.BACKEND = "aot_eager"
    return _trained(config), _trained(with_run(config, compile=True))


@pytest.mark.parametrize("layout", of_every_change(LAYOUTS, EVERY))
def test_compiled_equals_eager(layout: str) -> None:
    family, more = LAYOUTS[layout]
    config = _config(family, **more)
    parallel = config.parallel
    ranks = parallel.tp * parallel.pp * parallel.cp * (parallel.dp or 1)
    for (losses, parameters, none), (there, found, graphs) in run_ranks(_both, ranks, config, limit_s=280):
        assert there == pytest.approx(losses, abs=1e-5)
        assert found.keys() == parameters.keys()
        for name, whole in parameters.items():
            assert (found[name] - whole).norm() <= 1e-4 * whole.norm(), name
        assert none == 0
        assert 2 <= graphs <= GRAPHS.get(layout, 3)


def test_checkpoints_know_nothing_of_it(tmp_path: Path) -> None:
    data = tokens(tmp_path)
    for first, second in ((True, False), (False, True)):
        run = tmp_path / f"{first}"
        run_ranks(_run, 1, job_config(data, run, iters=2, compile=first))
        steps = run_ranks(_run, 1, job_config(data, run, iters=4, compile=second, resume=True))
        assert steps == [4]
    losses = [[line["loss"] for line in metrics.read(tmp_path / name)] for name in ("True", "False")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert len(losses[0]) == 4


def _run(config: TrainConfig) -> int:
    compiled.BACKEND = "aot_eager"
    return loop.train(config)


@pytest.mark.parametrize("schedule", ["zero-bubble", "zbv", "dualpipev"])
def test_a_split_backward_pass_is_refused(schedule: str) -> None:
    config = toy_config(pp=2, parallel={"vpp": 2, "schedule": schedule}, compile=True)
    with pytest.raises(UsageError, match=f"{schedule} splits the backward pass"):
        check_compile(config)
    check_compile(with_run(config, compile=False))


def test_a_missing_compiler_is_told_at_start() -> None:
    from torch._inductor import config as inductor
    from torch._inductor.cpp_builder import cpp_compiler_search

    cpp_compiler_search.cache_clear()
    try:
        with (
            inductor.patch({"cpp.cxx": (None, "/nowhere/g++")}),
            pytest.raises(UsageError, match=r"--compile needs a C\+\+ compiler"),
        ):
            check_compile(toy_config(compile=True, device="cpu"))
    finally:
        cpp_compiler_search.cache_clear()


def test_what_does_not_work_is_told_in_a_line() -> None:
    run_ranks(_broken, 1)


def _broken() -> None:
    compiled.BACKEND = lambda graph, inputs: 1 / 0  # type: ignore[assignment]
    with pytest.raises(MccError, match=r"torch\.compile does not work on this machine: .*division by zero"):
        make_engine(toy_config(compile=True))


def _inductor(config: TrainConfig) -> tuple[list[float], list[float], int]:
    losses, _, graphs = _trained(with_run(config, compile=True))
    return _trained(config)[0], losses, graphs


def test_inductor_equals_eager() -> None:
    config = _config("llama")
    try:
        check_compile(with_run(config, compile=True, device="cpu"))
    except UsageError as error:
        pytest.skip(error.what)
    ((plain, fused, graphs),) = run_ranks(_inductor, 1, config, limit_s=280)
    assert fused == pytest.approx(plain, abs=1e-5)
    assert graphs == 3
