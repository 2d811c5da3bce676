"""Two checkpoints compared by global names, a tensor at a time, whatever their formats and layouts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from mcc.ckpt.format import open_checkpoint
from mcc.ckpt.source import Source
from mcc.core.errors import MccError
from mcc.core.events import SILENT, Reporter, track


@dataclass(frozen=True, kw_only=True)
class TensorDiff:
    """The largest differences between two tensors of the same name; infinite where their shapes differ or one is NaN.

    Args:
        name: global name.
        max_abs: max |a - b|.
        max_rel: max |a - b| / max(|a|, |b|).
        note: the shapes or dtypes, where they differ.
    """

    name: str
    max_abs: float
    max_rel: float
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Diff:
    """How two checkpoints differ: every shared tensor, and the names that only one of them has."""

    tensors: tuple[TensorDiff, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]

    @property
    def max_abs(self) -> float:
        """The largest absolute difference; infinite when a tensor is missing on one side."""
        if self.only_a or self.only_b:
            return math.inf
        return max((row.max_abs for row in self.tensors), default=0.0)

    @property
    def max_rel(self) -> float:
        """The largest relative difference; infinite when a tensor is missing on one side."""
        if self.only_a or self.only_b:
            return math.inf
        return max((row.max_rel for row in self.tensors), default=0.0)


def diff(
    a: str | Path | Source, b: str | Path | Source, reporter: Reporter = SILENT, *, optimizer: bool = False
) -> Diff:
    """Compare two checkpoints of any format and layout, a tensor at a time.

    Args:
        a: a checkpoint.
        b: another.
        reporter: receives progress.
        optimizer: the optimizer's state too, under the names `optim.<slot>.<name>`.

    Raises:
        MccError: one cannot be read, or with `optimizer` neither has optimizer state.
    """
    left, right = (side if isinstance(side, Source) else open_checkpoint(side) for side in (a, b))
    if optimizer and not left.slots() and not right.slots():
        raise MccError("neither checkpoint has optimizer state that can be read", "leave out --optimizer")
    ours, theirs = _readers(left, optimizer), _readers(right, optimizer)
    shared = [name for name in ours if name in theirs]
    return Diff(
        tensors=tuple(
            _difference(name, ours[name](), theirs[name]())
            for name in track(shared, reporter, "compare", len(shared), "tensors")
        ),
        only_a=tuple(name for name in ours if name not in theirs),
        only_b=tuple(name for name in theirs if name not in ours),
    )


def _readers(source: Source, optimizer: bool) -> dict[str, Callable[[], Tensor]]:
    """Name -> what reads the tensor."""
    found: dict[str, Callable[[], Tensor]] = {name: partial(source.read, name) for name in source.shapes()}
    for slot in source.slots() if optimizer else ():
        found |= {f"optim.{slot}.{name}": partial(source.read_slot, slot, name) for name in source.shapes()}
    return found


def _difference(name: str, a: Tensor, b: Tensor) -> TensorDiff:
    if a.shape != b.shape:
        note = f"shapes {list(a.shape)} and {list(b.shape)}"
        return TensorDiff(name=name, max_abs=math.inf, max_rel=math.inf, note=note)
    note = "" if a.dtype == b.dtype else f"{a.dtype} and {b.dtype}".replace("torch.", "")
    wide = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    a, b = a.to(wide), b.to(wide)
    same = (a == b) | (a.isnan() & b.isnan())
    gap = (a - b).abs_().masked_fill_(same, 0.0).nan_to_num_(nan=math.inf, posinf=math.inf)
    scale = torch.maximum(a.abs(), b.abs()).masked_fill_(same, 1.0)
    relative = (gap / scale).nan_to_num_(nan=math.inf, posinf=math.inf)
    return TensorDiff(name=name, max_abs=_largest(gap), max_rel=_largest(relative), note=note)


def _largest(values: Tensor) -> float:
    return float(values.max()) if values.numel() else 0.0
