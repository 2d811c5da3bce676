"""Steps that all ranks take and all ranks know the outcome of: one that fails fails on every rank, and nobody waits."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist

from mcc.core.errors import MccError

Value = TypeVar("Value")


class Elsewhere(MccError):
    """Another rank is the cause, and says so itself."""


def together(action: Callable[[], Value], what: str, hint: str, group: dist.ProcessGroup | None = None) -> list[Value]:
    """Every rank's `action()`, in order of rank. Collective where ranks are up.

    Args:
        action: what this rank does.
        what: begins the message, such as "cannot write X".
        hint: of the message.
        group: takes CPU tensors; None: the default one.

    Raises:
        MccError: it failed somewhere, the same on every rank; names the first rank that did. `Elsewhere` on the
            others.
    """
    world = dist.get_world_size(group) if dist.is_initialized() else 1
    value: Any = None
    failure: str | None = None
    try:
        value = action()
    except Exception as error:
        failure = reason(error)
    outcomes: list[Any] = [(value, failure)]
    if world > 1:
        outcomes = [None] * world
        dist.all_gather_object(outcomes, (value, failure), group=group)
    for rank, (_, failed) in enumerate(outcomes):
        if failed is not None:
            raise (Elsewhere if failure is None else MccError)(f"{what}: rank {rank}: {failed}", hint)
    return [value for value, _ in outcomes]


def lost_peer(error: BaseException) -> bool:
    """Whether a collective or a message failed: a peer is gone, and this rank is not the cause."""
    if not isinstance(error, RuntimeError):
        return False
    frames = traceback.extract_tb(error.__traceback__)
    inside = bool(frames) and str(Path("torch", "distributed")) in frames[-1].filename
    # `Work.wait` has no frame of Python's: who called it is the last.
    return inside or isinstance(error, dist.DistError) or "/gloo/" in str(error)


def reason(error: BaseException) -> str:
    """An error in one line."""
    if isinstance(error, MccError):
        return error.what
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}" + (f": {error.filename}" if error.filename else "")
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
