"""Codecs of a trained run where the model is only run: what its ranks sent forward went through them, and still does.

Codecs neither change nor use what they remember, as in held-out evaluation. Every row is coded for itself, so that its
result does not depend on the batch.

    B rows   T tokens   D hidden size
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mcc.ckpt.source import Meta
from mcc.core.errors import UsageError
from mcc.train.compress.codec import Context, TensorSpec
from mcc.train.compress.collective import Collective, CompressedSum
from mcc.train.compress.spec import FORWARD, CodecSpec, parse_all
from mcc.train.compress.wire import Wire
from mcc.train.parallel.pipeline import SCHEDULES
from mcc.train.parallel.places import boundary_coded, coded_keys
from mcc.train.parallel.stages import Stages, cut

_NOW = Context(training=False)
Total = Callable[[Tensor, str], Tensor]


def forward_codecs(
    meta: Meta, tp: int, rank: int, group: Any
) -> tuple[dict[int, nn.Module], Total | None, tuple[str, ...]]:
    """What a run's checkpoint says was compressed forward.

    Args:
        meta: of a native checkpoint, which names the run's codecs and its layout.
        tp, rank, group: this rank's tensor parallelism.

    Returns:
        The codec at each boundary between stages of the run, by the layer before it; the sum over the tensor-parallel
        ranks, if it was compressed; and the codecs as `--compress` names them.

    Raises:
        UsageError: sums were compressed among other ranks than these, or keys and values were compressed.
    """
    texts: Any = meta.extra.get("compress") or ()
    found = {site: spec for site, spec in parse_all(texts).items() if site in FORWARD and not spec.codec.trainable}
    names = tuple(map(str, found.values()))
    if not found:
        return {}, None, names
    if "cp.kv" in found:
        raise UsageError("--codec on: the run compressed keys and values of context parallelism, which scoring has not")
    layout: Any = meta.extra["codec_layout"]
    stages = _stages(meta, layout)
    total = None
    if "tp.forward" in found and layout["tp"] > 1:
        if tp != layout["tp"]:
            raise UsageError(
                f"--codec on: the run compressed sums over {layout['tp']} tensor-parallel ranks, and here are {tp}",
                f"--tp {layout['tp']}",
            )
        total = _Total(found["tp.forward"], Collective(group, tp, rank, Wire(), "tp.forward"), stages)
    between: dict[int, nn.Module] = {}
    if "pp.forward" in found:
        for before in range(stages.last):
            spec, layer = found["pp.forward"], stages.layers[before].stop - 1
            if stages.rank_of(before) != stages.rank_of(before + 1) and boundary_coded(spec, stages, before):
                between[layer] = _Boundary(spec, f"stage{before}")
    return between, total, names


def _stages(meta: Meta, layout: dict[str, Any]) -> Stages:
    return cut(meta.config, layout["pp"], layout["vpp"], SCHEDULES[layout["schedule"]].v, layout["stages"])


class _Boundary(nn.Module):
    """x[B, T, D] as the next stage received it."""

    def __init__(self, spec: CodecSpec, key: str) -> None:
        super().__init__()
        self.spec, self.key = spec, key

    def forward(self, x_BTD: Tensor) -> Tensor:
        codec = self.spec.make(TensorSpec((1, *x_BTD.shape[1:]), x_BTD.dtype), self.key)
        return torch.cat([codec.decode(codec.encode(row, _NOW), _NOW) for row in x_BTD.split(1)])


class _Total:
    """The sum over tensor-parallel ranks of x[B, T, D], compressed where the run's codec stood."""

    def __init__(self, spec: CodecSpec, group: Collective, stages: Stages) -> None:
        self.spec, self.group, self.selects = spec, group, coded_keys(spec, stages)
        self.streams: dict[tuple[str, int], CompressedSum] = {}

    def __call__(self, x_BTD: Tensor, key: str) -> Tensor:
        if not self.selects(key):
            return self.group.sum_(x_BTD.clone())
        stream = self.streams.get((key, x_BTD.shape[1]))
        if stream is None:
            shape = (1, *x_BTD.shape[1:])
            stream = CompressedSum(self.spec, TensorSpec(shape, x_BTD.dtype), key, self.group)
            self.streams = {k: s for k, s in self.streams.items() if k[1] == x_BTD.shape[1]}  # one length at a time
            self.streams[key, x_BTD.shape[1]] = stream
        return torch.cat([stream(row, _NOW) for row in x_BTD.split(1)])
