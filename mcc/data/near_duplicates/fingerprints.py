"""Fingerprints of documents on disk: what finds and proves duplicates, in chunks that can be read in any order.

A chunk is `MCCF`, eleven little-endian 64-bit numbers (documents; unit and part of the block they come from; bytes of
each section) and the sections `SECTIONS`. A file that later runs load begins with a line of JSON that says how it was
made and ends with an empty chunk.
"""

# n documents of a chunk, b bands, S bytes of a sketch, C chunks

from __future__ import annotations

import json
import os
import struct
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcc.core.errors import MccError
from mcc.core.files import require_file

FORMAT_VERSION = 1
# digest: 16 bytes; keys: uint64[b, n]; sketch: uint8[n, S]; line: the line's number; chars: of the text;
# score: what `best` goes by; ends: uint64[2n + 1], where names (JSON) and texts (zlib in saved files) start in payload.
SECTIONS = ("digest", "keys", "sketch", "line", "chars", "score", "ends", "payload")
_INDEX = {name: index for index, name in enumerate(SECTIONS)}
_TYPES: dict[str, Any] = {
    "digest": np.dtype("<u8"),
    "keys": np.dtype("<u8"),
    "sketch": np.dtype(np.uint8),
    "line": np.dtype("<i8"),
    "chars": np.dtype("<i8"),
    "score": np.dtype("<f8"),
    "ends": np.dtype("<i8"),
}
_MAGIC = b"MCCF"
_HEADER = struct.Struct(f"<4s{3 + len(SECTIONS)}q")
_WHAT = "mcc fingerprints"


def pack_chunk(
    unit: int, part: int, sections: Mapping[str, Any], names: Sequence[bytes], texts: Sequence[bytes]
) -> Iterator[bytes]:
    """The pieces of one chunk; sections that are not given are empty."""
    payload = [piece for pair in zip(names, texts, strict=True) for piece in pair]
    ends = np.zeros(len(payload) + 1, dtype=np.int64)
    np.cumsum([len(piece) for piece in payload], out=ends[1:])
    raw = [_raw(sections.get(name, b"")) for name in SECTIONS[:-2]]
    raw.append(ends.tobytes())
    sizes = [*map(len, raw), int(ends[-1])]
    yield _HEADER.pack(_MAGIC, len(names), unit, part, *sizes)
    yield from raw
    yield from payload


def _consistent(documents: int, sizes: Sequence[int]) -> bool:
    """Whether sections of these sizes can belong to so many documents."""
    found = dict(zip(SECTIONS, sizes, strict=True))
    fixed = {"digest": 16, "line": 8, "chars": 8, "score": 8}
    if documents < 0 or min(sizes) < 0 or found["ends"] != 8 * (2 * documents + 1):
        return False
    if not documents:
        return not any(size for name, size in found.items() if name != "ends")
    whole = all(found[name] % documents == 0 for name in ("keys", "sketch"))
    return whole and all(found[name] in (size * documents, 0) for name, size in fixed.items())


def _raw(value: Any) -> bytes:
    return value if isinstance(value, bytes) else np.ascontiguousarray(value).tobytes()


class Fingerprints:
    """Chunks in files, one after the other; documents are numbered through, those of `loaded` files first.

    Args:
        loaded: files that `save` wrote.
        parts: files that hold chunks and nothing else.
        text_of: what `parts` keep of a text -> the text in UTF-8; by default that is what they keep.

    Attributes:
        loaded: how many documents come from loaded files.
    """

    def __init__(
        self, loaded: Sequence[Path], parts: Sequence[Path], text_of: Callable[[bytes], bytes] | None = None
    ) -> None:
        self.paths = [*loaded, *parts]
        self._text_of = text_of
        self._files = [path.open("rb", buffering=0) for path in self.paths]
        rows: list[tuple[int, ...]] = []
        self.loaded = 0
        for number, path in enumerate(self.paths):
            rows += self._scan(number, path, number < len(loaded))
            if number + 1 == len(loaded):
                self.loaded = sum(row[2] for row in rows)
        table = np.array(rows, dtype=np.int64).reshape(len(rows), 5 + len(SECTIONS))
        # [C, file, offset, documents, unit, part]; where sections start, and the last one ends
        self._table = table[:, :5]
        self._starts = np.cumsum(table[:, [1, *range(5, table.shape[1])]], axis=1)
        self._descriptors = [file.fileno() for file in self._files]
        self._first: list[int] = np.concatenate(([0], np.cumsum(self._table[:, 2]))).tolist()
        self._loaded_files = len(loaded)

    def _scan(self, number: int, path: Path, saved: bool) -> Iterator[tuple[int, ...]]:
        size = path.stat().st_size
        descriptor = self._files[number].fileno()
        at = _header_bytes(path) if saved else 0
        while at < size:
            header = os.pread(descriptor, _HEADER.size, at)
            values = _HEADER.unpack(header) if len(header) == _HEADER.size else (b"",)
            end = at + _HEADER.size + sum(values[4:])
            if values[0] != _MAGIC or end > size or not _consistent(values[1], values[4:]):
                raise MccError(f"{path}: damaged at byte {at}", "make the fingerprints again")
            if saved and not values[1]:
                return
            yield (number, at + _HEADER.size, *values[1:])
            at = end
        if saved:
            raise MccError(f"{path}: cut off at byte {size}", "make the fingerprints again")

    def __enter__(self) -> Fingerprints:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.close()

    def __len__(self) -> int:
        return self._first[-1]

    @property
    def chunks(self) -> int:
        """C."""
        return len(self._table)

    def span(self, chunk: int) -> tuple[int, int]:
        """Numbers of its first document and the one behind its last."""
        return self._first[chunk], self._first[chunk + 1]

    def is_loaded(self, chunk: int) -> bool:
        """Whether it comes from a loaded file."""
        return bool(self._table[chunk, 0] < self._loaded_files)

    def places(self) -> dict[tuple[int, int], int]:
        """(unit, part) -> chunk, of what was not loaded."""
        return {(int(row[3]), int(row[4])): chunk for chunk, row in enumerate(self._table) if not self.is_loaded(chunk)}

    def _section(self, chunk: int, name: str) -> tuple[int, int, int]:
        index = _INDEX[name]
        start, end = self._starts[chunk, index : index + 2].tolist()
        return self._descriptors[self._table[chunk, 0]], start, end - start

    def column(self, chunk: int, name: str) -> NDArray[Any]:
        """A whole section as a flat array."""
        descriptor, start, size = self._section(chunk, name)
        return np.frombuffer(_pread(descriptor, size, start), dtype=_TYPES[name])

    def band(self, chunk: int, band: int) -> NDArray[np.uint64]:
        """uint64[n]: the keys of one band."""
        descriptor, start, _ = self._section(chunk, "keys")
        count = int(self._table[chunk, 2])
        return np.frombuffer(_pread(descriptor, 8 * count, start + 8 * count * band), dtype="<u8")

    def _place(self, document: int) -> tuple[int, int]:
        chunk = bisect_right(self._first, document) - 1
        return chunk, document - self._first[chunk]

    def sketch(self, document: int) -> bytes:
        """S bytes."""
        chunk, i = self._place(document)
        descriptor, start, size = self._section(chunk, "sketch")
        width = size // int(self._table[chunk, 2])
        return _pread(descriptor, width, start + width * i)

    def _payload(self, document: int, which: int) -> tuple[int, bytes]:
        chunk, i = self._place(document)
        descriptor, start, _ = self._section(chunk, "ends")
        begin, end = struct.unpack("<qq", _pread(descriptor, 16, start + 8 * (2 * i + which)))
        descriptor, start, size = self._section(chunk, "payload")
        if not 0 <= begin <= end <= size:
            raise self._damaged(chunk)
        return chunk, _pread(descriptor, end - begin, start + begin)

    def name(self, document: int) -> bytes:
        """What names the document, as JSON."""
        return self._payload(document, 0)[1]

    def text(self, document: int) -> str:
        """The text."""
        chunk, raw = self._payload(document, 1)
        try:
            if self.is_loaded(chunk):
                raw = zlib.decompress(raw)
            elif self._text_of is not None:
                raw = self._text_of(raw)
            return raw.decode()
        except (zlib.error, UnicodeDecodeError) as error:
            raise self._damaged(chunk) from error

    def _damaged(self, chunk: int) -> MccError:
        path, offset = self.paths[int(self._table[chunk, 0])], int(self._table[chunk, 1])
        return MccError(f"{path}: damaged behind byte {offset}", "make the fingerprints again")

    def save(self, path: Path, settings: Mapping[str, Any], kept: NDArray[np.bool_]) -> int:
        """Write the documents that are kept (bool[documents]) and were not loaded; how many they are."""
        total = 0
        with path.open("wb") as file:
            file.write(json.dumps({"what": _WHAT, "version": FORMAT_VERSION, "settings": dict(settings)}).encode())
            file.write(b"\n")
            for chunk in range(self.chunks):
                first, end = self.span(chunk)
                chosen = np.flatnonzero(kept[first:end])
                if self.is_loaded(chunk) or not chosen.size:
                    continue
                sections = self._selected(chunk, chosen)
                names = [self.name(first + int(i)) for i in chosen]
                texts = [zlib.compress(self.text(first + int(i)).encode(), 1) for i in chosen]
                file.writelines(pack_chunk(chunk, 0, sections, names, texts))
                total += len(chosen)
            file.writelines(pack_chunk(0, 0, {}, [], []))
        return total

    def _selected(self, chunk: int, chosen: NDArray[np.int64]) -> dict[str, Any]:
        count = int(self._table[chunk, 2])
        found: dict[str, Any] = {}
        for name in ("digest", "sketch", "line", "chars", "score"):
            column = self.column(chunk, name)
            found[name] = column.reshape(count, -1)[chosen] if column.size else b""
        keys = self.column(chunk, "keys")
        found["keys"] = keys.reshape(-1, count)[:, chosen] if keys.size else b""
        return found


def _pread(descriptor: int, size: int, start: int) -> bytes:
    found = os.pread(descriptor, size, start)
    while len(found) < size:
        more = os.pread(descriptor, size - len(found), start + len(found))
        if not more:
            raise MccError("a file of fingerprints became shorter while it was read")
        found += more
    return found


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """The first line of a saved file, and its size."""
    with path.open("rb") as file:
        line = file.readline(1 << 16)
    try:
        found = json.loads(line)
        known = isinstance(found, dict) and found.get("what") == _WHAT and isinstance(found.get("settings"), dict)
    except ValueError:
        known = False
    if not known or not line.endswith(b"\n"):
        raise MccError(f"{path}: no fingerprints", "give a file that --save-fingerprints wrote")
    return found, len(line)


def _header_bytes(path: Path) -> int:
    return _header(path)[1]


def check_saved(path: Path, settings: Mapping[str, Any]) -> None:
    """Whether fingerprints in a file can be used with these settings.

    Raises:
        MccError: it is no such file, or was made in another way; says in which.
    """
    header, _ = _header(require_file(path, "fingerprints"))
    if header.get("version") != FORMAT_VERSION:
        raise MccError(
            f"{path}: fingerprints of format {header.get('version')!r}, this version reads {FORMAT_VERSION}",
            "make them again",
        )
    saved = header["settings"]
    for name, value in settings.items():
        if saved.get(name) != value:
            was = "nothing" if saved.get(name) is None else saved[name]
            raise MccError(
                f"{path}: made with {name} = {was}, not {value}",
                "make the fingerprints again, or use the settings they were made with",
            )


def minhashes(path: Path) -> Iterator[tuple[Any, Any]]:
    """(name, `datasketch.LeanMinHash`) of the documents in a file that `--engine datasketch` saved.

    Raises:
        MccError: it is no such file.
    """
    from datasketch import LeanMinHash

    header, _ = _header(require_file(path, "fingerprints"))
    if header["settings"].get("engine") != "datasketch":
        raise MccError(f"{path}: sketches of engine {header['settings'].get('engine')}", "use --engine datasketch")
    with Fingerprints([path], []) as found:
        for document in range(len(found)):
            yield json.loads(found.name(document)), LeanMinHash.deserialize(found.sketch(document))
