"""What one block of the input gave: bytes for each of the files that a phase writes, and counts."""

from __future__ import annotations

import bz2
import gzip
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import orjson

from mcc.core.errors import MccError
from mcc.data.base.members import trailer
from mcc.data.base.records import SHOWN_BYTES, ReadConfig, Record
from mcc.data.base.streams import zstandard

# Warnings of one block that are shown; the rejects have all.
_SHOWN_WARNINGS = 3


@dataclass(frozen=True)
class Done:
    """A finished block.

    Args:
        streams: bytes to append, compressed already.
        counts: to add to the totals.
        warnings: lines for the user.
    """

    streams: dict[str, bytes]
    counts: dict[str, int]
    warnings: tuple[str, ...]


@dataclass
class Part:
    """Collects what a block gives. Streams that the phase does not have swallow what is written to them.

    Args:
        endings: stream -> the ending that says how it is compressed (`.gz`, `.bz2`, `.zst`; anything else: not).
    """

    endings: dict[str, str]
    counts: Counter[str] = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._pieces: dict[str, list[bytes]] = {name: [] for name in self.endings}

    def write(self, stream: str, record: Record) -> None:
        """Append a record as a line of JSON."""
        self.write_line(stream, orjson.dumps(record))

    def write_line(self, stream: str, line: bytes) -> None:
        """Append a line that is JSON already, without its end."""
        pieces = self._pieces.get(stream)
        if pieces is not None:
            pieces.append(line)
            pieces.append(b"\n")

    def write_bytes(self, stream: str, raw: bytes) -> None:
        """Append bytes as they are."""
        pieces = self._pieces.get(stream)
        if pieces is not None:
            pieces.append(raw)

    def keep(self, record: Record, chars: int) -> None:
        """Write a document, whose text has `chars` characters, to the stream `out`."""
        self.keep_line(orjson.dumps(record), chars)

    def keep_line(self, line: bytes, chars: int) -> None:
        """`keep` for a record that is JSON already."""
        self.write_line("out", line)
        self.counts["documents_out"] += 1
        self.counts["chars_out"] += chars

    def reject(self, record: Record, kind: str, reason: str, where: str) -> None:
        """Set a document aside; `kind` is counted, `reason` (one line) is written beside it."""
        self.counts[f"rejected:{kind}"] += 1
        self.write("rejects", {"reason": f"{kind}: {reason}", "where": where, **record})

    def bad_line(self, where: str, reason: str, line: bytes, read: ReadConfig) -> None:
        """Set a line aside that is no record.

        Raises:
            MccError: `read.on_error` is `fail`.
        """
        if read.on_error == "fail":
            raise MccError(f"{where}: {reason}", "correct the line, or set such lines aside with --on-error reject")
        self.counts["bad_lines"] += 1
        if len(self.warnings) < _SHOWN_WARNINGS:
            self.warnings.append(f"{where}: {reason}")
        shown = line[:SHOWN_BYTES].decode(errors="backslashreplace")
        self.write("rejects", {"reason": f"bad line: {reason}", "where": where, "line": shown})

    def done(self) -> Done:
        """Everything so far, compressed."""
        packed = {name: pack(b"".join(pieces), self.endings[name]) for name, pieces in self._pieces.items()}
        return Done(packed, dict(self.counts), tuple(self.warnings))


def pack(raw: bytes, ending: str) -> bytes:
    """`raw` as one member of a file with this ending. Members one after the other are a valid file.

    >>> gzip.decompress(pack(b"a", ".gz") + pack(b"b", ".gz"))
    b'ab'
    """
    if not raw:
        return b""
    packed = _packed(raw, ending)
    return packed + trailer(ending, len(packed), raw)


def pack_empty(ending: str) -> bytes:
    """What a file of this ending holds when it holds nothing."""
    return _packed(b"", ending)


def _packed(raw: bytes, ending: str) -> bytes:
    if ending == ".gz":
        return gzip.compress(raw, 6, mtime=0)
    if ending == ".bz2":
        return bz2.compress(raw)
    if ending == ".zst":
        packed: bytes = zstandard().ZstdCompressor(write_checksum=True).compress(raw)
        return packed
    return raw


def totals(counts: Iterable[dict[str, int]]) -> Counter[str]:
    """The sum of counts."""
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return total
