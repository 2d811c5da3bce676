"""The native training checkpoint, saved and loaded by all ranks together through torch.distributed.checkpoint.

    RUN/latest                     the name of the newest complete checkpoint
    RUN/iter_0000100/mcc.json      the model, the layout, the position in the data (`write_manifest`)
    RUN/iter_0000100/*.distcp      tensors by global name; `.metadata` says where
    RUN/iter_0000100/tokenizer.json
    RUN/iter_0000100/checksums.json   of every file, written last (`mcc.ckpt.checksums`)

Keys: `model.<name>` and `optim.<slot>.<name>` are whole tensors whatever the layout; `rank.<place>.<name>` belongs to
one rank of one layout (codec state).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import StorageMeta

from mcc.ckpt.checksums import CHECKSUMS, Sums, digest, write_sums
from mcc.ckpt.dcp import DcpFolder
from mcc.ckpt.history import LATEST, folder_name, latest, prune
from mcc.ckpt.manifest import MANIFEST
from mcc.ckpt.pieces import LoadPieces, Piece, SavePieces
from mcc.ckpt.together import Elsewhere, lost_peer, together
from mcc.core.errors import MccError
from mcc.core.files import partial_path, remove, write_text

__all__ = ["LATEST", "MANIFEST", "RankState", "folder_name", "latest", "load", "save", "stored_weights"]

MODEL = "model."


def save(
    run: Path,
    iteration: int,
    state: Mapping[str, Tensor | Piece],
    manifest: Mapping[str, Any],
    tokenizer: str | None,
    group: dist.ProcessGroup | None = None,
    keep: int = 0,
) -> Path:
    """Save a checkpoint; it stands under its name only when every rank has written. Collective.

    Args:
        run: the run's folder.
        iteration: optimizer steps taken.
        state: this rank's tensors, or pieces of tensors, by key.
        manifest: what goes into mcc.json.
        tokenizer: the contents of tokenizer.json, or None.
        group: all ranks; one of its own where the others are in use meanwhile.
        keep: checkpoints that stay, this one among them; 0: all.

    Raises:
        MccError: a rank could not write (disk full, permissions); on every rank, and the run is as it was.
    """
    final = run / folder_name(iteration)
    temporary = partial_path(final)
    leader = dist.get_rank() == 0
    what, hint = f"cannot write checkpoint {final}", "is the disk full?"
    try:
        together(lambda: _begin(temporary) if leader else None, what, "check its permissions", group)
        try:
            dcp.save(dict(state), storage_writer=_Writer(temporary), planner=SavePieces(), process_group=group)
        except (Exception, CheckpointException) as error:  # the latter is no Exception
            if lost_peer(error):
                raise  # no fault of the disk
            here = dist.get_rank() in getattr(error, "failures", [dist.get_rank()])
            raise (MccError if here else Elsewhere)(f"{what}: {_root(error)}", hint) from error
        mine = f"__{dist.get_rank()}_*"
        sums = together(lambda: {file.name: digest(file) for file in temporary.glob(mine)}, what, hint, group)
        text = json.dumps({**manifest, "tokenizer": "tokenizer.json" if tokenizer else None}, indent=2) + "\n"
        small = {MANIFEST: text} | ({"tokenizer.json": tokenizer} if tokenizer else {})
        together(lambda: _finish(temporary, final, small, sums) if leader else None, what, hint, group)
    except MccError:
        if leader:
            with suppress(OSError):
                remove(temporary)  # makes room again where the disk is full
        raise
    together(lambda: prune(run, keep) if leader else None, f"cannot delete old checkpoints of {run}", hint, group)
    return final


class _Writer(dcp.FileSystemWriter):
    """Leaves out where and when it wrote: the same state gives the same bytes."""

    def storage_meta(self) -> StorageMeta:
        return StorageMeta()


def _begin(temporary: Path) -> None:
    remove(temporary)
    temporary.mkdir(parents=True)


def _finish(temporary: Path, final: Path, texts: Mapping[str, str], sums: list[Sums]) -> None:
    for name, text in texts.items():
        (temporary / name).write_text(text, encoding="utf-8")
    known = {name: entry for part in sums for name, entry in part.items()}
    rest = {f.name: digest(f) for f in temporary.iterdir() if f.name not in known and f.name != CHECKSUMS}
    write_sums(temporary, known | rest)
    if final.exists():
        remove(final)
    temporary.replace(final)
    write_text(final.parent / LATEST, final.name + "\n")


def load(folder: Path, state: Mapping[str, Tensor | Piece]) -> None:
    """Fill the tensors and pieces of `state` in place from a checkpoint of any layout. Collective where ranks are up.

    Raises:
        MccError: a tensor is missing, of another shape, or its file is damaged.
    """
    DcpFolder(folder)  # torch unpickles `.metadata` whatever it holds: here it is refused unless it describes tensors
    try:
        dcp.load(dict(state), checkpoint_id=str(folder), planner=LoadPieces(), no_dist=not dist.is_initialized())
    except (Exception, CheckpointException) as error:  # the latter is no Exception
        raise MccError(f"cannot read checkpoint {folder}: {_root(error)}", "take an earlier one") from error


def stored_weights(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every whole weight as stored, by global name. Not collective."""
    stored = DcpFolder(folder).stored
    return {key.removeprefix(MODEL): shape for key, (_, shape) in stored.items() if key.startswith(MODEL)}


class RankState:
    """The tensors that one place of the layout saved for itself. Not collective.

    Attributes:
        names: of the tensors.
    """

    def __init__(self, folder: Path, place: str) -> None:
        self._prefix, self._saved = f"rank.{place}.", DcpFolder(folder)
        self.names = [key.removeprefix(self._prefix) for key in self._saved.stored if key.startswith(self._prefix)]

    def read(self, name: str) -> Tensor:
        """The tensor of this name.

        Raises:
            MccError: its file is missing or damaged.
        """
        return self._saved.read(self._prefix + name)


def _root(error: BaseException) -> str:
    """The first line of the error that a failed collective wraps."""
    failures = getattr(error, "failures", None)
    if failures:
        rank, (cause, _) = next(iter(sorted(failures.items())))
        return f"rank {rank}: {type(cause).__name__}: {str(cause).splitlines()[0] if str(cause) else ''}"
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
