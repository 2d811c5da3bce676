"""Arrays that are built once and kept on disk: one process builds them, all others map them.

A folder holds an array a file, and a stamp that says what they were built from. It appears when it is whole; a file
lock makes processes that want it at the same time wait for the one that builds it, and a killed one lets it go.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcc.core.events import SILENT, Reporter
from mcc.core.files import atomic_path

Arrays = dict[str, NDArray[Any]]

_STAMP = "key.json"
_LOCK = ".lock"
_HASH_BYTES = 1 << 20


def kept(
    folder: Path, stamp: Mapping[str, Any], build: Callable[[], Arrays], reporter: Reporter = SILENT
) -> tuple[Arrays, bool]:
    """The arrays of `folder`, built when it has none with this stamp; and whether they are on disk now.

    Where nothing can be written (a read-only disk) they are built in memory, by every process for itself.
    """
    found = load(folder, stamp)
    if found is not None:
        return found, True
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _alone(folder.parent / _LOCK):
            found = load(folder, stamp)
            if found is None:
                with reporter.task(f"indices: {folder.name}"):
                    save(folder, stamp, build())
                found = load(folder, stamp)
    except (OSError, PermissionError) as error:
        reporter.warn(f"{folder}: indices cannot be kept ({error.strerror}): built in memory")
    return (found, True) if found is not None else (build(), False)


def save(folder: Path, stamp: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write the arrays; the folder appears when it is whole.

    Raises:
        MccError: it cannot be written.
    """
    with atomic_path(folder) as temporary:
        temporary.mkdir(parents=True)
        for name, array in arrays.items():
            np.save(temporary / f"{name}.npy", array)
        (temporary / _STAMP).write_text(json.dumps({**stamp, "arrays": sorted(arrays)}), encoding="utf-8")


def load(folder: Path, stamp: Mapping[str, Any]) -> Arrays | None:
    """The arrays, mapped; None when there are none, they are damaged, or were built from something else."""
    try:
        values = json.loads((folder / _STAMP).read_text(encoding="utf-8"))
        names = values.pop("arrays")
        if values != dict(stamp):
            return None
        return {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in names}
    except (OSError, ValueError, KeyError, AttributeError):
        return None


def digest(path: Path) -> str:
    """A hash of a file's content, computed once while it stays as it is."""
    stat = path.stat()
    return _digest(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=64)
def _digest(path: Path, size: int, mtime_ns: int) -> str:
    found = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while piece := file.read(_HASH_BYTES):
            found.update(piece)
    return found.hexdigest()


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Within the block no other process holds `lock`. Where files cannot be locked, it costs a double build."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    with lock.open("w") as file:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
