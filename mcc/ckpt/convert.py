"""From any format to any other, and from any layout to any other, tensor by tensor."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcc.ckpt.format import Format, WriteOptions, WriteReport, detect, formats, open_checkpoint
from mcc.ckpt.source import Source
from mcc.ckpt.through import Checked
from mcc.core.errors import MccError, UsageError
from mcc.core.events import SILENT, Reporter
from mcc.core.files import partial_path, remove


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a checkpoint is to be read.

    Args:
        format: a name of `mcc.ckpt.format.formats`; None: detected.
        family: a name of `mcc.models.base.family.families`; None: detected.
        strict: refuse NaN and infinite numbers, instead of a warning.
    """

    format: str | None = None
    family: str | None = None
    strict: bool = False

    def open(self, path: str | Path) -> Source:
        """The checkpoint at `path` (`mcc.ckpt.format.open_checkpoint`)."""
        return open_checkpoint(path, self.format, self.family)


DETECTED = Reading()


def convert(
    src: str | Path,
    dst: str | Path,
    to: str,
    options: WriteOptions | None = None,
    *,
    reading: Reading = DETECTED,
    force: bool = False,
    reporter: Reporter = SILENT,
) -> WriteReport:
    """Write the checkpoint `src` to the folder `dst` in the format `to`. `dst` appears when it is complete.

    Args:
        src: a checkpoint in any format, or a training run's folder.
        dst: a folder that does not exist or is empty.
        to: a name of `mcc.ckpt.format.formats`.
        options: layout, dtype and version of what is written.
        reading: what `src` is [detected], and whether numbers that are none are refused.
        force: replace what stands at `dst`.
        reporter: receives progress and warnings.

    Raises:
        UsageError: `dst` is in use, the format is unknown or cannot do what `options` ask.
        MccError: `src` is damaged, or there is not enough room on the disk.
    """
    formats.get(to)().check_writes()
    check_output(Path(src), Path(dst), force)
    return write_checked(reading.open(src), src, dst, to, options or WriteOptions(), reading, reporter)


def merge(
    src: str | Path,
    dst: str | Path,
    *,
    options: WriteOptions | None = None,
    reading: Reading = DETECTED,
    force: bool = False,
    reporter: Reporter = SILENT,
) -> WriteReport:
    """Write `src`, however it is cut, as one model of safetensors (format mcc-safetensors)."""
    return convert(src, dst, "mcc-safetensors", options, reading=reading, force=force, reporter=reporter)


def split(
    src: str | Path,
    dst: str | Path,
    tp: int,
    pp: int,
    to: str = "megatron",
    options: WriteOptions | None = None,
    *,
    reading: Reading = DETECTED,
    force: bool = False,
    reporter: Reporter = SILENT,
) -> WriteReport:
    """Write `src` cut for `tp` tensor-parallel ranks x `pp` pipeline stages. `merge` is its inverse, byte for byte.

    Raises:
        UsageError: besides `convert`'s: tp does not divide the heads, or the stages do not fit the layers.
    """
    options = dataclasses.replace(options or WriteOptions(), tp=tp, pp=pp)
    return convert(src, dst, to, options, reading=reading, force=force, reporter=reporter)


def reshard(
    src: str | Path,
    dst: str | Path,
    tp: int,
    pp: int,
    changes: Mapping[str, Any] | None = None,
    *,
    reading: Reading = DETECTED,
    force: bool = False,
    reporter: Reporter = SILENT,
) -> WriteReport:
    """Write `src` in its own format for another layout, optimizer state and all.

    Args:
        src: a checkpoint of a format that has layouts.
        dst: a folder that does not exist or is empty.
        tp: tensor-parallel ranks.
        pp: pipeline stages.
        changes: other values of `WriteOptions`; what is left out or None stays as it is.
        reading: what `src` is.
        force: replace what stands at `dst`.
        reporter: receives progress and warnings.

    Raises:
        UsageError: besides `convert`'s: the format has no layouts.
    """
    plugin = detect(src, reading.format)
    plugin.check_writes()
    if not plugin.layouts:
        cut = ", ".join(name for name, known in formats.all() if known.layouts)
        raise UsageError(f"{src} is in the format {plugin.name}, which has no layout", f"mcc ckpt split, --to {cut}")
    check_output(Path(src), Path(dst), force)
    wanted = {name: value for name, value in (changes or {}).items() if value is not None}
    if "megatron_version" in wanted and plugin.name != "megatron":
        raise UsageError(f"megatron_version has no effect on {src}, which is in the format {plugin.name}")
    source = reading.open(src)
    options = WriteOptions(**(kept_options(source) | wanted), tp=tp, pp=pp)
    return write_checked(source, src, dst, plugin.name, options, reading, reporter)


def kept_options(source: Source) -> dict[str, Any]:
    """What `source` says of how it was written besides its layout, as values of `WriteOptions`."""
    version = source.meta.extra.get("checkpoint_version")
    return {"megatron_version": version} if isinstance(version, float) else {}


def write_checked(
    source: Source,
    src: str | Path,
    dst: str | Path,
    to: str,
    options: WriteOptions,
    reading: Reading,
    reporter: Reporter,
) -> WriteReport:
    """Write `source`, opened from `src`, if there is room for it; its numbers are looked at on their way.

    Raises:
        MccError: there is not enough room, or with `reading.strict` a number is none.
    """
    target = formats.get(to)()
    _check_room(source, target, Path(dst), options)
    checked = Checked(source, Path(src), reading.strict, reporter)
    done = target.write(checked, dst, options, reporter)
    checked.finish()
    return done


def check_output(src: Path, dst: Path, force: bool) -> None:
    """Refuse to write over the input, a file, or without `force` over anything.

    Raises:
        UsageError: `dst` is one of these.
    """
    if dst.exists() and not dst.is_dir():
        raise UsageError(f"output {dst} is a file", "give a folder")
    full, there = dst.is_dir() and any(dst.iterdir()), dst.resolve()
    if there == src.resolve() or there in src.resolve().parents:
        raise UsageError(f"writing {dst} would replace the input {src}, or a part of it", "choose another folder")
    if src.resolve() in there.parents:
        raise UsageError(f"output {dst} would be inside the input {src}", "choose another folder")
    if full and not force:
        raise UsageError(f"output {dst} is not empty", "choose another folder, or replace it with --force")


def _check_room(source: Source, target: Format, dst: Path, options: WriteOptions) -> None:
    """Refuse what the disk has no room for. Counted are the tensors; what a killed run left there makes room first."""
    remove(partial_path(dst))
    need = target.size_bytes(source, options)
    parent = next(folder for folder in (dst.resolve(), *dst.resolve().parents) if folder.exists())
    free = shutil.disk_usage(parent).free
    if need > free:
        raise MccError(
            f"{parent} has {free / 1e9:.2f} GB free; the output's tensors take {need / 1e9:.2f} GB",
            "make room, write elsewhere, or choose a narrower --dtype",
        )
