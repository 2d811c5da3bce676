"""From any format to any other, tensor by tensor, and the comparison of two checkpoints."""

from __future__ import annotations

import dataclasses
import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mcc.ckpt.dtypes import dtype_named
from mcc.ckpt.format import WriteOptions, WriteReport, formats, open_checkpoint
from mcc.ckpt.source import Source
from mcc.core.errors import MccError, UsageError
from mcc.core.events import SILENT, Reporter, track


def convert(
    src: str | Path,
    dst: str | Path,
    to: str,
    options: WriteOptions | None = None,
    *,
    source_format: str | None = None,
    force: bool = False,
    reporter: Reporter = SILENT,
) -> WriteReport:
    """Write the checkpoint `src` to the folder `dst` in the format `to`. `dst` appears when it is complete.

    Args:
        src: a checkpoint in any format, or a training run's folder.
        dst: a folder that does not exist or is empty.
        to: a name of `mcc.ckpt.format.formats`.
        options: layout, dtype and version of what is written.
        source_format: the format of `src` [detected].
        force: replace what stands at `dst`.
        reporter: receives progress and warnings.

    Raises:
        UsageError: `dst` is in use, the format is unknown or cannot do what `options` ask.
        MccError: `src` is damaged, or there is not enough room on the disk.
    """
    target = formats.get(to)()
    target.check_writes()
    _check_output(Path(src), Path(dst), force)
    source = open_checkpoint(src, source_format)
    options = options or WriteOptions()
    _check_room(source, Path(dst), options)
    return target.write(source, dst, options, reporter)


def merge(
    src: str | Path,
    dst: str | Path,
    *,
    dtype: str | None = None,
    source_format: str | None = None,
    force: bool = False,
    reporter: Reporter = SILENT,
) -> WriteReport:
    """Write `src`, however it is cut, as one model of safetensors (format mcc-safetensors)."""
    options = WriteOptions(dtype=dtype)
    return convert(src, dst, "mcc-safetensors", options, source_format=source_format, force=force, reporter=reporter)


def split(
    src: str | Path,
    dst: str | Path,
    tp: int,
    pp: int,
    to: str = "megatron",
    options: WriteOptions | None = None,
    *,
    source_format: str | None = None,
    force: bool = False,
    reporter: Reporter = SILENT,
) -> WriteReport:
    """Write `src` cut for `tp` tensor-parallel ranks x `pp` pipeline stages. `merge` is its inverse, byte for byte.

    Raises:
        UsageError: besides `convert`'s: tp does not divide the heads, or the stages do not fit the layers.
    """
    options = dataclasses.replace(options or WriteOptions(), tp=tp, pp=pp)
    return convert(src, dst, to, options, source_format=source_format, force=force, reporter=reporter)


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


def diff(a: str | Path | Source, b: str | Path | Source, reporter: Reporter = SILENT) -> Diff:
    """Compare two checkpoints of any format and layout by global names, a tensor at a time."""
    left = a if isinstance(a, Source) else open_checkpoint(a)
    right = b if isinstance(b, Source) else open_checkpoint(b)
    names, others = left.shapes(), right.shapes()
    shared = [name for name in names if name in others]
    return Diff(
        tensors=tuple(
            _difference(name, left.read(name), right.read(name))
            for name in track(shared, reporter, "compare", len(shared), "tensors")
        ),
        only_a=tuple(name for name in names if name not in others),
        only_b=tuple(name for name in others if name not in names),
    )


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


def _check_output(src: Path, dst: Path, force: bool) -> None:
    if dst.exists() and not dst.is_dir():
        raise UsageError(f"output {dst} is a file", "give a folder")
    full, there = dst.is_dir() and any(dst.iterdir()), dst.resolve()
    if there == src.resolve() or there in src.resolve().parents or (full and src.resolve() in there.parents):
        raise UsageError(f"writing {dst} would replace the input {src}, or a part of it", "choose another folder")
    if full and not force:
        raise UsageError(f"output {dst} is not empty", "choose another folder, or replace it with --force")


def _check_room(source: Source, dst: Path, options: WriteOptions) -> None:
    wanted = None if options.dtype is None else dtype_named(options.dtype).itemsize
    stored = source.dtypes()
    per_copy = sum(math.prod(shape) * (wanted or stored[name].itemsize) for name, shape in source.shapes().items())
    need = per_copy + len(source.slots()) * sum(math.prod(shape) * 4 for shape in source.shapes().values())
    parent = next(folder for folder in (dst.resolve(), *dst.resolve().parents) if folder.exists())
    free = shutil.disk_usage(parent).free
    if need > free:
        raise MccError(f"{parent} has {free / 1e9:.2f} GB free; the output takes {need / 1e9:.2f} GB", "make room")
