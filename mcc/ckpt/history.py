"""The checkpoints of a run: which is the last that is whole, and which are old enough to go."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch.distributed as dist

from mcc.ckpt.checksums import CHECKSUMS, Sums, problem, read_sums
from mcc.ckpt.dcp import METADATA, DcpFolder
from mcc.ckpt.manifest import MANIFEST, read_manifest
from mcc.ckpt.together import together
from mcc.core.errors import MccError
from mcc.core.files import remove

LATEST = "latest"
_PREFIX = "iter_"


def folder_name(iteration: int) -> str:
    """The name of the checkpoint after `iteration` steps."""
    return f"{_PREFIX}{iteration:07d}"


def candidates(run: Path) -> list[Path]:
    """The checkpoints to try, best first: that which `latest` names, then those before it.

    Where `latest` is torn, or names none that is there, all are tried, newest first.
    """
    found = [folder for folder in run.glob(f"{_PREFIX}*") if folder.name[len(_PREFIX) :].isdigit()]
    found = sorted((f for f in found if (f / MANIFEST).is_file()), key=_iteration, reverse=True)
    named = _named(run)
    if named in found:
        return found[found.index(named) :]
    return found


def latest(run: Path) -> Path | None:
    """The checkpoint that a run continues from if it is whole, or None when the run has none.

    Raises:
        MccError: `latest` names a folder that is gone, and there is no other.
    """
    tries = candidates(run)
    if not tries and (run / LATEST).exists():
        raise MccError(f"{run / LATEST} names a checkpoint that is not there, and {run} has no other")
    return tries[0] if tries else None


def last_good(run: Path, warn: Callable[[str], None], group: dist.ProcessGroup | None = None) -> Path | None:
    """The newest checkpoint whose files are all as they were written; None when the run has none. Collective.

    Args:
        run: the run's folder.
        warn: told what is wrong with those that are passed over.
        group: takes CPU tensors.

    Raises:
        MccError: there are checkpoints, but none is whole.
    """
    named = _named(run)
    tries = together(lambda: candidates(run), f"cannot read {run}", "check the path", group)[0]
    if (run / LATEST).exists() and tries and tries[0] != named:
        gone = "is torn" if named is None else f"names {named.name}, which is not there or has no {MANIFEST}"
        warn(f"{run / LATEST} {gone}: taking the newest that is there")
    first: MccError | None = None
    for folder in tries:
        try:
            check(folder, group)
        except MccError as error:
            first = first or error
            warn(f"checkpoint {folder.name} is passed over: {error.what}")
            continue
        return folder
    if first is not None:
        raise MccError(f"no checkpoint in {run} is whole; the newest: {first.what}", first.hint)
    if (run / LATEST).exists():
        raise MccError(f"{run / LATEST} names a checkpoint that is not there, and {run} has no other")
    return None


def check(folder: Path, group: dist.ProcessGroup | None = None) -> None:
    """Compare every file of a checkpoint with its checksum, each rank some of them. Collective where ranks are up.

    Raises:
        MccError: the description or a file is missing or not as it was written; the same on every rank.
    """
    rank, world = (dist.get_rank(group), dist.get_world_size(group)) if dist.is_initialized() else (0, 1)

    def mine() -> str | None:
        sums = read_sums(folder)
        if sums is None:  # from before they were kept
            read_manifest(folder)
            DcpFolder(folder).check_files()
            return None
        wrong = problem(folder, sums, sorted(sums)[rank::world])
        if wrong is None:
            _require_described(folder, sums)
        return wrong

    for wrong in together(mine, f"cannot read checkpoint {folder}", "take an earlier one", group):
        if wrong is not None:
            raise MccError(wrong, "take an earlier checkpoint, or copy this one again")


def prune(run: Path, keep: int) -> list[Path]:
    """Delete all but the newest `keep` checkpoints; those that went. 0 keeps all, and the one in use always stays."""
    if not keep:
        return []
    current = latest(run)
    old = sorted((f for f in run.glob(f"{_PREFIX}*") if f.name[len(_PREFIX) :].isdigit()), key=_iteration)[:-keep]
    gone = [folder for folder in old if folder != current]
    for folder in gone:
        # First its description: what is deleted by half is no checkpoint.
        (folder / MANIFEST).unlink(missing_ok=True)
        remove(folder)
    return gone


def _require_described(folder: Path, sums: Sums) -> None:
    missing = [name for name in (MANIFEST, METADATA) if name not in sums]
    if missing:
        raise MccError(f"{folder / CHECKSUMS} does not know {missing[0]}: the checkpoint is incomplete")
    read_manifest(folder)


def _iteration(folder: Path) -> int:
    return int(folder.name[len(_PREFIX) :])


def _named(run: Path) -> Path | None:
    """The folder that `latest` names, whether it is there or not."""
    try:
        name = (run / LATEST).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    return run / name if name and Path(name).name == name else None
