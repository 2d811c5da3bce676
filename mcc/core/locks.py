"""A folder that one process alone writes to."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mcc.core.errors import MccError

# In the folder; whoever empties the folder leaves it.
LOCK = ".lock"


@contextmanager
def exclusive(folder: Path, what: object, who: str, hint: str) -> Iterator[None]:
    """Within the block no other process gets into such a block for `folder`, which is made if it is not there.

    The lock goes with the process, however that ends. A file system without locks is taken as it is.

    Args:
        folder: to write to.
        what: that is written, as errors say.
        who: the other one: "another run".
        hint: when there is another one.

    Raises:
        MccError: another process is in such a block, or the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A file of its own, open for writing: network file systems lock nothing else.
        lock = (folder / LOCK).open("ab")
    except OSError as error:
        problem = f"cannot write {what}: {error.strerror}"
        raise MccError(problem, "make room, mend its permissions, or choose another path") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MccError(f"{who} is writing {what}", hint) from None
        except OSError:
            pass
        yield
