"""`--compile`: torch.compile over the layers of every stage.

A layer is the unit: schedules, codecs, collectives, checkpointing and `fully_shard`'s hooks stay outside of graphs as
they are. A graph ends where a layer talks to other ranks and begins anew behind it (`leave_out_of_graphs`), and so it
does around attention that drops weights, whose random numbers are torch's own. All layers of a stage share graphs.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from mcc.core.errors import MccError, UsageError
from mcc.models.base.transformer import Stage
from mcc.train.config import TrainConfig
from mcc.train.device import choose
from mcc.train.parallel.pipeline import SCHEDULES
from mcc.train.parallel.tensor import ParallelAxes

BACKEND = "inductor"  # the tests take one that needs no C++ compiler
_VARIANTS = 4  # of a layer's graphs: training and evaluation, with room for more
_WITHOUT = "leave --compile out"


def compile_layers(stages: Iterable[Stage], axes: ParallelAxes, device: torch.device) -> None:
    """Let torch.compile compute the stages' layers from now on. Parameters keep their names and places.

    Raises:
        MccError: nothing can be compiled on this machine.
    """
    _try(device)
    axes.leave_out_of_graphs()
    layers = [layer for stage in stages for layer in stage.layers.values()]
    # Where torch takes a layer's name for a constant, every layer has graphs of its own.
    limit = _VARIANTS * (len(layers) + 1)
    torch._dynamo.config.recompile_limit = max(limit, torch._dynamo.config.recompile_limit)
    for layer in layers:
        whole = axes.size == axes.dealt.size == 1 and not layer.attention.dropout and axes.trained is None
        layer.compile(backend=BACKEND, fullgraph=whole, dynamic=False)


def _try(device: torch.device) -> None:
    """Compile something small, so that what is missing is told at once and in a line."""
    compiled = torch.compile(lambda x: (x * 2).exp() + 1, backend=BACKEND, dynamic=False)
    try:
        compiled(torch.zeros(8, device=device))
    except Exception as error:
        raise MccError(f"--compile: torch.compile does not work on this machine: {_reason(error)}", _WITHOUT) from error


def _reason(error: Exception) -> str:
    """The line that matters: a compiler's first complaint, or else the first line."""
    inner = getattr(error, "inner_exception", error)
    lines = str(inner).strip().splitlines() or [type(inner).__name__]
    return next((line for line in lines if "error:" in line), lines[0])


def check_compile(config: TrainConfig) -> None:
    """Refuse what torch.compile cannot do here.

    Raises:
        UsageError: the schedule splits the backward pass, or what turns graphs into programs is missing.
    """
    parallel = config.parallel
    if not config.run.compile:
        return
    if parallel.pp > 1 and SCHEDULES[parallel.schedule].splits:
        raise UsageError(
            f"schedule {parallel.schedule} splits the backward pass into that of inputs and that of weights, but a "
            "compiled layer computes both at once",
            f"--schedule 1f1b, or {_WITHOUT}",
        )
    if BACKEND != "inductor":
        return
    if choose(config.run.device, 0).type == "cuda":
        from torch.utils._triton import has_triton_package

        if not has_triton_package():
            raise UsageError("--compile on a GPU needs Triton, which is not here", f"pip install triton, or {_WITHOUT}")
        return
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        hint = f"install g++, name one in the environment's CXX, or {_WITHOUT}"
        raise UsageError("--compile needs a C++ compiler on the CPU, but none is here", hint) from None
