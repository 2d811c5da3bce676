"""The folder of a measurement's files, removed at its end; one whose owner was killed, by the next measurement."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mcc.core.signals import ended_by_signals

_PREFIX = "mcc-network-"
_LOCK = ".owner"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for this process, which it holds locked. SIGTERM and SIGHUP end the block as Ctrl-C does."""
    with ended_by_signals():
        parent = Path(tempfile.gettempdir())
        remove_ended(parent)
        folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=parent))
        try:
            with (folder / _LOCK).open("wb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def remove_ended(parent: Path) -> None:
    """Remove folders whose owner was killed: its process is gone, and nobody holds the lock."""
    for folder in parent.glob(f"{_PREFIX}*"):
        owner = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if not owner.isdigit() or _lives(int(owner)):
            continue
        with suppress(OSError):  # not ours, or somebody else removes it
            with (folder / _LOCK).open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # held: its owner counts processes otherwise
            shutil.rmtree(folder)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True
