"""What went wrong on which rank: told once, by the rank that is the cause."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from mcc.ckpt.together import Elsewhere, lost_peer
from mcc.core.errors import MccError
from mcc.train.config import ParallelConfig


@dataclass(frozen=True, kw_only=True)
class Account:
    """Why a rank failed.

    Args:
        rank: of the process.
        what, hint: in one line each.
        time: seconds since 1970.
        cause: False when the rank only saw that another had failed.
        exit_code: of the process.
        known: an error for users; what is not is our bug, and its traceback is worth keeping.
        trace: the traceback.
    """

    rank: int
    what: str
    hint: str | None = None
    time: float
    cause: bool = True
    exit_code: int = 1
    known: bool = True
    trace: str = ""

    @staticmethod
    def of(rank: int, error: BaseException) -> Account:
        """The account of `error`, which ended rank `rank`."""
        user = error if isinstance(error, MccError) else None
        return Account(
            rank=rank,
            what=user.what if user else _one_line(error),
            hint=user.hint if user else None,
            time=time.time(),
            cause=not (isinstance(error, Elsewhere) or lost_peer(error)),
            exit_code=user.exit_code if user else 1,
            known=user is not None,
            trace="".join(traceback.format_exception(error)),
        )

    def write(self, folder: Path) -> None:
        """Leave it for the launcher; a rank's first account stays."""
        path = folder / f"rank_{self.rank}.json"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                path.write_text(json.dumps(asdict(self)), encoding="utf-8")
        except OSError:
            pass  # the disk is full: the process's exit code must do


def accounts(folder: Path) -> list[Account]:
    """The accounts of ranks that were a cause, the earliest first; of those that heard of it where none could write."""
    found = []
    for path in folder.glob("rank_*.json"):
        try:
            found.append(Account(**json.loads(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError):
            continue  # written by half
    causes = [account for account in found if account.cause] or [account for account in found if account.known]
    return sorted(causes, key=lambda account: account.time)


def place(rank: int, parallel: ParallelConfig) -> str:
    """Where a rank stands, in words; `parallel` is resolved.

    >>> place(5, ParallelConfig(tp=2, pp=2, dp=2))
    'pp 1, dp 0, tp 1'
    """
    rest, where = rank, {}
    for axis, size in (("tp", parallel.tp), ("cp", parallel.cp), ("dp", parallel.dp or 1), ("pp", parallel.pp)):
        rest, where[axis] = divmod(rest, size)
    axes = [axis for axis in ("pp", "dp", "cp", "tp") if axis != "cp" or parallel.cp > 1]
    return ", ".join(f"{axis} {where[axis]}" for axis in axes)


def not_finite(name: str, value: float, step: int, fine_here: bool = True) -> MccError:
    """The error of a value that is not a number any more, for every rank to raise. Collective.

    Args:
        name: of the value. value: the same on every rank.
        step: counted from 1.
        fine_here: whether this rank's own part of it is finite; the first rank whose part is not is the cause.
    """
    flags = [torch.zeros(1, dtype=torch.int64) for _ in range(dist.get_world_size())]
    dist.all_gather(flags, torch.tensor([int(not fine_here)]))
    culprits: Iterable[int] = (rank for rank, flag in enumerate(flags) if int(flag))
    kind = MccError if dist.get_rank() == next(iter(culprits), 0) else Elsewhere
    return kind(f"{name} is {value} at step {step}", "lower --lr, or compress less")


def _one_line(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
