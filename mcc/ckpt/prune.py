"""A checkpoint made smaller: without its optimizer, or the mean of a run's last ones.

Averaging the weights along a run's end is Polyak and Ruppert's (1992); for networks Izmailov et al., arXiv 1803.05407.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from mcc.ckpt.convert import DETECTED, Reading, check_output, kept_options, write_checked
from mcc.ckpt.format import OPTIMIZER_STATE, WriteOptions, WriteReport, detect, formats
from mcc.ckpt.source import Source
from mcc.ckpt.through import Average, WithoutOptimizer
from mcc.core.errors import UsageError
from mcc.core.events import SILENT, Reporter

_PREFIX = "iter_"


def prune(
    src: str | Path,
    dst: str | Path,
    options: WriteOptions | None = None,
    *,
    average: int = 1,
    to: str | None = None,
    reading: Reading = DETECTED,
    force: bool = False,
    reporter: Reporter = SILENT,
) -> WriteReport:
    """Write the weights of `src` alone, in its own format and layout. `src` stays as it is.

    Args:
        src: a checkpoint; with `average` above 1 a run's folder.
        dst: a folder that does not exist or is empty.
        options: how it is written; the layout and Megatron-LM's version are the source's.
        average: so many of the run's last checkpoints are averaged, a tensor at a time (`Average` says how exactly).
        to: another format.
        reading: what `src` is.
        force: replace what stands at `dst`.
        reporter: receives progress and warnings.

    Raises:
        UsageError: there are not so many checkpoints, or `dst` is in use.
        MccError: one cannot be read, or they are of different models.
    """
    plugin = detect(src, reading.format)
    target = plugin if to is None else formats.get(to)()
    target.check_writes()
    check_output(Path(src), Path(dst), force)
    source = reading.open(src)
    had_optimizer = bool(source.slots())
    lean: Source = WithoutOptimizer(source)
    if average > 1:
        lean = Average([reading.open(folder) for folder in last_checkpoints(Path(src), source, average)])
    options = dataclasses.replace(options or WriteOptions(), **kept_options(source))
    if target.layouts:
        layout = source.meta.layout
        options = dataclasses.replace(options, tp=layout.tp, pp=layout.pp, vpp=layout.vpp)
    done = write_checked(lean, src, dst, target.name, options, reading, reporter)
    missing = (OPTIMIZER_STATE,) if had_optimizer and OPTIMIZER_STATE not in done.dropped else ()
    return dataclasses.replace(done, dropped=(*done.dropped, *missing))


def last_checkpoints(run: Path, newest: Source, count: int) -> list[Path]:
    """The last `count` checkpoints of a run, oldest first: of its folders iter_N those up to `newest`.

    Raises:
        UsageError: there are fewer.
    """
    numbered = {
        int(folder.name[len(_PREFIX) :]): folder
        for folder in run.glob(f"{_PREFIX}*")
        if folder.is_dir() and folder.name[len(_PREFIX) :].isdigit()
    }
    found = [folder for number, folder in sorted(numbered.items()) if number <= newest.meta.iteration]
    if count < 1 or len(found) < count:
        raise UsageError(
            f"{run} has {len(found)} checkpoints {_PREFIX}N to average, not {count}",
            "give a run's folder; `mcc train --keep-last` says how many of them stay",
        )
    return found[-count:]
