"""Files opened by their ending: plain, `.gz`, `.bz2`, and `.zst` when the zstandard package is there."""

from __future__ import annotations

import bz2
import glob
import gzip
import io
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from mcc.core.errors import MccError, UsageError
from mcc.core.files import require_file

COMPRESSIONS = (".gz", ".bz2", ".zst")
# What a damaged compressed file raises, by library.
BROKEN = (EOFError, zlib.error, gzip.BadGzipFile, OSError)
_BUFFER_BYTES = 1 << 20


def expand(inputs: Sequence[str | Path], what: str = "input file") -> list[Path]:
    """The files meant by paths and glob patterns, each pattern's in order of name.

    Raises:
        UsageError: there is nothing to read.
        MccError: a file does not exist, or a pattern matches none.
    """
    found: list[Path] = []
    for given in inputs:
        name = str(given)
        if not Path(name).exists() and glob.has_magic(name):
            matches = sorted(glob.glob(name, recursive=True))  # noqa: PTH207 - absolute patterns too
            if not matches:
                raise MccError(f"no {what} matches {name}", "check the pattern")
            found += [require_file(match, what) for match in matches]
        else:
            found.append(require_file(name, what))
    if not found:
        raise UsageError(f"no {what} given")
    return found


def content_suffix(path: Path) -> str:
    """The ending below the compression's, lower case.

    Wikimedia puts the range of pages after it, which is no part of it.

    >>> content_suffix(Path("a.jsonl")), content_suffix(Path("enwiki-latest.xml-p1p41242.BZ2"))
    ('.jsonl', '.xml')
    """
    suffix = path.suffix.lower()
    if suffix in COMPRESSIONS:
        suffix = Path(path.stem).suffix.lower()
    return ".xml" if suffix.startswith(".xml-") else suffix


def open_input(path: Path, raw: IO[bytes] | None = None) -> IO[bytes]:
    """`path` for reading, decompressed; `raw` is the open file itself, for those who watch how far it has been read."""
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return io.BufferedReader(gzip.open(raw or path, "rb"), _BUFFER_BYTES)
    if suffix == ".bz2":
        return bz2.open(raw or path, "rb")
    if suffix == ".zst":
        return io.BufferedReader(_Zstandard(raw or path.open("rb", buffering=0)), _BUFFER_BYTES)
    return raw or path.open("rb", buffering=_BUFFER_BYTES)


def open_output(path: Path, final: Path) -> IO[bytes]:
    """`path` for writing, compressed as the ending of `final` says. The same content gives the same bytes."""
    suffix = final.suffix.lower()
    if suffix == ".gz":
        return cast(IO[bytes], _Gzip(path))
    if suffix == ".bz2":
        return bz2.open(path, "wb")
    if suffix == ".zst":
        return zstandard().ZstdCompressor(write_checksum=True).stream_writer(path.open("wb"), closefd=True)
    return path.open("wb", buffering=_BUFFER_BYTES)


class _Gzip(gzip.GzipFile):
    """Gzip without a time stamp or file name in its header."""

    def __init__(self, path: Path) -> None:
        self._raw = path.open("wb")
        super().__init__(filename="", mode="wb", fileobj=self._raw, compresslevel=6, mtime=0)

    def close(self) -> None:
        super().close()
        self._raw.close()


class _Zstandard(io.RawIOBase):
    """Frames of zstandard one after the other. The package's own reader takes a cut-off frame for the end."""

    def __init__(self, file: IO[bytes]) -> None:
        self._new = zstandard().ZstdDecompressor().decompressobj
        self._file = file
        self._frame = self._new()
        self._inside = False
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            packed = self._frame.unused_data or self._file.read(_BUFFER_BYTES)
            if not packed:
                if self._inside:
                    raise EOFError("a frame has no end")
                return 0
            if self._frame.eof:
                self._frame = self._new()
            self._ready = memoryview(self._frame.decompress(packed))
            self._inside = not self._frame.eof
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Number (from 1) and bytes of every line, without its end.

    Raises:
        MccError: the file is damaged; says after which line.
    """
    number = 0
    with telling_damage(path, lambda: f"after line {number}"), open_input(path) as stream:
        for number, line in enumerate(stream, 1):
            yield number, line.rstrip(b"\r\n")


@contextmanager
def telling_damage(path: Path, where: Callable[[], str]) -> Iterator[None]:
    """What the libraries raise for a damaged file, as an error that says how far it could be read (`after line 7`).

    Raises:
        MccError: the file is damaged.
    """
    try:
        yield
    except BROKEN as error:
        raise broken(path, error, where()) from error
    except Exception as error:
        if is_zstd_error(error):
            raise broken(path, error, where()) from error
        raise


def is_zstd_error(error: Exception) -> bool:
    """Whether the zstandard package, which may not be there, says that a file is damaged."""
    return type(error).__name__ == "ZstdError"


def broken(path: Path, error: Exception, where: str) -> MccError:
    """The error for a compressed file that ends too soon or is not what its name says."""
    if isinstance(error, EOFError):
        return MccError(f"{path}: truncated {where}", "get the file again")
    return MccError(f"{path}: cannot be read {where}: {error}", "get the file again")


def zstandard() -> Any:
    """The package that reads and writes `.zst`."""
    try:
        import zstandard
    except ImportError:
        raise UsageError(".zst files need the zstandard package", "pip install zstandard") from None
    return zstandard
