"""Files that appear under their final name only when they are complete."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from mcc.core.errors import MccError

# The name shows what it is and that it may be deleted: `.out.jsonl.partial`.
PARTIAL = ".partial"

# Bytes handed to the system at a time. For a larger write Linux looks for larger blocks of free memory, and on a
# virtual machine that gives its free memory back (free page reporting) just those have to be fetched from the host:
# whole tensors took twice as long there as pieces of this size. Smaller ones cost more calls.
_PIECE = 1 << 19


def partial_path(path: Path) -> Path:
    """Where the unfinished version of `path` is written: beside it, so that the rename is atomic."""
    return path.with_name(f".{path.name}{PARTIAL}")


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a path to write a file or a folder to; it becomes `path` when the block ends well.

    On an error the unfinished output is deleted and whatever stood at `path` stays.

    Raises:
        MccError: the parent folder cannot be made or written.
    """
    final = Path(path)
    temporary = partial_path(final)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        remove(temporary)
    except OSError as error:
        raise MccError(f"cannot write {final}: {error.strerror}", "choose another output path") from error
    try:
        yield temporary
        if temporary.is_dir() and final.exists():
            remove(final)  # a folder cannot be replaced in one step
        temporary.replace(final)
    except BaseException:
        remove(temporary)
        raise


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 to `path`, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


class Output(FileIO):
    """A file to write, without a buffer: `write` takes all it is given, and hands it on a piece at a time."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "wb")

    def write(self, data: memoryview | bytes) -> int:  # type: ignore[override]
        """Write all of `data`; returns its bytes."""
        left = memoryview(data).cast("B")
        size = left.nbytes
        while left:
            left = left[super().write(left[:_PIECE]) :]
        return size


def remove(path: Path) -> None:
    """Delete a file or a folder if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def require_file(path: str | Path, what: str = "file") -> Path:
    """`path` if it is a readable file.

    Raises:
        MccError: it does not exist, is a folder, or may not be read.
    """
    found = Path(path)
    if not found.exists():
        raise MccError(f"no such {what}: {found}", "check the path")
    if found.is_dir():
        raise MccError(f"{what} {found} is a folder", "give a file")
    if not os.access(found, os.R_OK):
        raise MccError(f"{what} {found} may not be read", "check its permissions")
    return found
