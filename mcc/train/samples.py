"""Whether a run's samples come again, and whether what its codecs keep of them fits."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from mcc.core.errors import UsageError
from mcc.core.machine import memory_bytes
from mcc.core.ranks import from_environment
from mcc.models.base.family import families
from mcc.train.compress.spec import CodecSpec, parse_all
from mcc.train.config import TrainConfig
from mcc.train.data import RunData
from mcc.train.parallel.stages import Stages

_GIB = 2**30


def check_samples(config: TrainConfig, data: RunData, stages: Stages) -> None:
    """Refuse codecs that keep something of every sample where none comes again, or where it would not fit.

    Raises:
        UsageError: with the numbers.
    """
    for spec in _keeping(config):
        kept, name = samples_kept(config, data), f"--compress {spec.site}={spec.name}"
        if kept is None:
            causal = families.get(config.model.family).blueprint.causal
            fixed = "--samples fixed keeps the windows of text the same, " if causal else ""
            raise UsageError(f"{name}: no sample of this data comes again", f"{fixed}--task has examples that do")
        each = kept * sample_bytes(config, data, spec) * ends(stages)
        if kept > spec.options.max_samples:
            raise UsageError(
                f"{name}: {kept} samples come to a replica, more than max_samples = {spec.options.max_samples}",
                f"max_samples={kept} takes {each / _GIB:.3g} GiB on a rank",
            )
        ranks, disk = _ranks_here(config), spec.options.store == "disk"
        have, where = _free(config) if disk else (memory_bytes(), "the machine has")
        if each * ranks > have:
            raise UsageError(
                f"{name}: {kept} samples take {each / _GIB:.3g} GiB on each of {ranks} ranks, but {where} "
                f"{have / _GIB:.3g} GiB {'free' if disk else 'of memory'}",
                f"{'' if disk else 'store=disk, '}store_bits=8 or less, or fewer samples",
            )


def never_again(config: TrainConfig, data: RunData) -> list[str]:
    """Codecs that keep samples in vain, each with the reason."""
    epoch, run = data.train.epoch_samples, config.run
    if epoch is None or run.samples > epoch:
        return []
    return [
        f"--compress {spec.site}={spec.name} sends first visits alone: the run takes {run.samples} samples, "
        f"an epoch has {epoch}"
        for spec in _keeping(config)
    ]


def samples_kept(config: TrainConfig, data: RunData) -> int | None:
    """Samples that come to a replica in the run, none counted twice; None: none comes again."""
    dp = config.parallel.dp or 1
    there = data.train.kept_by(dp)
    return None if there is None else min(there, -(-config.run.samples // dp))


def sample_bytes(config: TrainConfig, data: RunData, spec: CodecSpec) -> int:
    """Bytes that one end keeps of a sample."""
    parallel = config.parallel
    tokens = config.model.seq_length // parallel.cp // (parallel.tp if parallel.sequence_parallel else 1)
    found: int = spec.codec.kept_bytes(spec.options, (data.rows, tokens, config.model.hidden_size))
    return found


def ends(stages: Stages) -> int:
    """Ends of boundaries between stages that the fullest rank has."""
    found = [0] * stages.pp
    for stage in range(stages.last):
        here, there = stages.rank_of(stage), stages.rank_of(stage + 1)
        if here != there:
            found[here] += 1
            found[there] += 1
    return max(found)


def _keeping(config: TrainConfig) -> list[CodecSpec]:
    return [spec for spec in parse_all(config.compress).values() if spec.codec.by_sample and config.parallel.pp > 1]


def _free(config: TrainConfig) -> tuple[int, str]:
    """Bytes free where codecs keep files, and where that is."""
    folder = Path(config.run.save or tempfile.gettempdir()).absolute()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(there).free, f"{folder} has"


def _ranks_here(config: TrainConfig) -> int:
    ranks, parallel = from_environment(), config.parallel
    if ranks is not None:
        return ranks.local_world_size
    return parallel.tp * parallel.pp * parallel.cp * (parallel.dp or 1)
