"""A folder that one process alone writes to."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mcc.core.errors import MccError


@contextmanager
def exclusive(folder: Path, who: str, hint: str) -> Iterator[None]:
    """Within the block no other process gets into such a block for `folder`, which is made if it is not there.

    The lock goes with the process, however that ends. A file system without locks is taken as it is.

    Args:
        folder: to write to.
        who: the other one, as the error says: "another run".
        hint: of the error.

    Raises:
        MccError: another process is in such a block, or the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise MccError(f"cannot write to {folder}: {error.strerror}", "check its permissions") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MccError(f"{who} writes to {folder}", hint) from None
        except OSError:
            pass
        yield
    finally:
        os.close(lock)
