"""The native training checkpoint, saved and loaded by all ranks together through torch.distributed.checkpoint.

    RUN/latest                     the name of the newest complete checkpoint
    RUN/iter_0000100/mcc.json      the model, the layout, the position in the data (`write_manifest`)
    RUN/iter_0000100/*.distcp      tensors by global name; `.metadata` says where
    RUN/iter_0000100/tokenizer.json

Keys: `model.<name>` and `optim.<slot>.<name>` are whole tensors whatever the layout; `rank.<place>.<name>` belongs to
one rank of one layout (codec state).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard

from mcc.ckpt.dcp import DcpFolder
from mcc.ckpt.manifest import MANIFEST
from mcc.core.errors import MccError
from mcc.core.files import partial_path, remove, write_text

LATEST = "latest"


def folder_name(iteration: int) -> str:
    """The name of the checkpoint after `iteration` steps."""
    return f"iter_{iteration:07d}"


def distributed(local: Tensor, dim: int | None, mesh: DeviceMesh) -> DTensor:
    """This rank's part of a whole tensor, so that a checkpoint knows its place. The last axis of mesh is tp."""
    placements = [*[Replicate()] * (mesh.ndim - 1), Replicate() if dim is None else Shard(dim)]
    return DTensor.from_local(local.detach(), mesh, placements, run_check=False)


def save(run: Path, iteration: int, state: dict[str, Any], manifest: Mapping[str, Any], tokenizer: str | None) -> Path:
    """Save a checkpoint; it stands under its name only when every rank has written. Collective.

    Args:
        run: the run's folder.
        iteration: optimizer steps taken.
        state: this rank's tensors by key.
        manifest: what goes into mcc.json.
        tokenizer: the contents of tokenizer.json, or None.

    Raises:
        MccError: a rank could not write (disk full, permissions).
    """
    final = run / folder_name(iteration)
    temporary = partial_path(final)
    leader = dist.get_rank() == 0
    if leader:
        remove(temporary)
        temporary.mkdir(parents=True)
    dist.barrier()
    try:
        dcp.save(state, checkpoint_id=str(temporary))
    except (Exception, CheckpointException) as error:  # the latter is no Exception
        raise MccError(f"cannot write checkpoint {final}: {_root(error)}", "is the disk full?") from error
    if leader:
        text = json.dumps({**manifest, "tokenizer": "tokenizer.json" if tokenizer else None}, indent=2)
        (temporary / MANIFEST).write_text(text + "\n", encoding="utf-8")
        if tokenizer:
            (temporary / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
        if final.exists():
            remove(final)
        temporary.replace(final)
        write_text(run / LATEST, final.name + "\n")
    dist.barrier()
    return final


def latest(run: Path) -> Path | None:
    """The newest complete checkpoint of a run, or None when there is none.

    Raises:
        MccError: `latest` names a folder that is gone.
    """
    pointer = run / LATEST
    if not pointer.exists():
        return None
    folder = run / pointer.read_text(encoding="utf-8").strip()
    if not (folder / MANIFEST).exists():
        raise MccError(f"{pointer} names {folder.name}, which is not a complete checkpoint", "edit it to name another")
    return folder


def load(folder: Path, state: dict[str, Any]) -> None:
    """Fill the tensors of `state` in place from a checkpoint of any layout. Collective where ranks are up.

    Raises:
        MccError: a tensor is missing, of another shape, or its file is damaged.
    """
    DcpFolder(folder)  # torch unpickles `.metadata` whatever it holds: here it is refused unless it describes tensors
    try:
        dcp.load(state, checkpoint_id=str(folder), no_dist=not dist.is_initialized())
    except (Exception, CheckpointException) as error:  # the latter is no Exception
        raise MccError(f"cannot read checkpoint {folder}: {_root(error)}", "take an earlier one") from error


def rank_state(folder: Path, place: str) -> dict[str, Tensor]:
    """The tensors that one place of the layout saved for itself, by name. Not collective."""
    prefix, saved = f"rank.{place}.", DcpFolder(folder)
    return {key.removeprefix(prefix): saved.read(key) for key in saved.stored if key.startswith(prefix)}


def _root(error: BaseException) -> str:
    """The first line of the error that a failed collective wraps."""
    failures = getattr(error, "failures", None)
    if failures:
        rank, (cause, _) = next(iter(sorted(failures.items())))
        return f"rank {rank}: {type(cause).__name__}: {str(cause).splitlines()[0] if str(cause) else ''}"
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
