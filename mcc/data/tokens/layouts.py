"""How token files are laid out: Megatron-LM's mapped kind, and its older `cached` / `lazy` kind (fairseq's).

`PREFIX.bin` holds tokens, `PREFIX.idx` says where the sequences are. All numbers are little-endian.

mmap: 9 bytes `MMIDIDX\\0\\0`; u64 version = 1; u8 dtype code; u64 S; u64 D; i32 sizes[S] in tokens; i64 pointers[S] in
bytes; i64 doc_idx[D], which starts with 0 and has one entry more than there are documents: document d is the sequences
doc_idx[d] .. doc_idx[d+1]-1.

cached, lazy: 8 bytes `TNTIDX\\0\\0`; u64 version = 1; u64 dtype code; u64 bytes of a token; u64 S; u64 number of sizes
= S; u64 D; i64 dim_offsets[S+1] = 0 .. S; i64 data_offsets[S+1] in tokens; i64 sizes[S]; i64 doc_idx[D].
"""

# S sequences, D entries of doc_idx (documents + 1)

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mcc.core.errors import MccError

MAGIC = b"MMIDIDX\x00\x00"
OLD_MAGIC = b"TNTIDX\x00\x00"
VERSION = 1
HEADER = struct.Struct("<9sQBQQ")
_OLD_HEADER = struct.Struct("<8sQQQQQQ")
# Megatron-LM's codes; the two floats are for completeness, tokens are never floats.
DTYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype("u1"),
    2: np.dtype("i1"),
    3: np.dtype("<i2"),
    4: np.dtype("<i4"),
    5: np.dtype("<i8"),
    6: np.dtype("<f8"),
    7: np.dtype("<f4"),
    8: np.dtype("<u2"),
}
AGAIN = "write the token files again"
_CHUNK = 1 << 18


@dataclass(frozen=True)
class Layout:
    """What an index says.

    Args:
        kind: mmap or cached (`lazy` is written the same).
        dtype: of the tokens.
        sizes: int32[S], tokens of each sequence.
        pointers: int64[S], byte offset of each sequence.
        doc_idx: int64[D].
        sections: (name, byte at which it starts) of the parts of the file, to say where something is wrong.
    """

    kind: str
    dtype: np.dtype[Any]
    sizes: NDArray[np.int32]
    pointers: NDArray[np.int64]
    doc_idx: NDArray[np.int64]
    sections: dict[str, int]

    def place(self, section: str, i: int) -> int:
        """The byte of the file at which the i-th number of a section stands."""
        width = 4 if self.kind == "mmap" and section == "sizes" else 8
        return self.sections[section] + width * i


def code_of(dtype: DTypeLike) -> int:
    """Megatron-LM's number for a dtype.

    Raises:
        MccError: it has none.
    """
    wanted = np.dtype(dtype).newbyteorder("<")
    codes = [code for code, known in DTYPES.items() if known == wanted]
    if not codes:
        raise MccError(f"token files cannot hold {wanted}", "use uint16 or int32")
    return codes[0]


def read_layout(path: Path) -> Layout:
    """The index in `path`, mapped.

    Raises:
        MccError: it is truncated, foreign, or says what cannot be; names the byte.
    """
    with path.open("rb") as file:
        head = file.read(_OLD_HEADER.size)
    if head.startswith(MAGIC):
        return _read_mmap(path, head)
    if head.startswith(OLD_MAGIC):
        return _read_old(path, head)
    if head and (MAGIC.startswith(head) or OLD_MAGIC.startswith(head)):
        raise MccError(f"{path}: truncated in its header at byte {len(head)}", AGAIN)
    raise MccError(f"{path}: not a token index (byte 0: {head[:9]!r})", "give the prefix of .bin/.idx files")


def _read_mmap(path: Path, head: bytes) -> Layout:
    head = head[: HEADER.size]
    if len(head) < HEADER.size:
        raise MccError(f"{path}: truncated in its header at byte {len(head)}", AGAIN)
    _, version, code, count, entries = HEADER.unpack(head)
    _check_version(path, version, 9)
    dtype = _dtype(path, code, 17)
    ends = _sections(path, [HEADER.size, 4 * count, 8 * count, 8 * entries], count)
    index: NDArray[np.uint8] = np.memmap(path, dtype=np.uint8, mode="r")
    sizes, pointers, doc_idx = (index[ends[i] : ends[i + 1]] for i in range(3))
    return Layout(
        kind="mmap",
        dtype=dtype,
        sizes=sizes.view("<i4"),
        pointers=pointers.view("<i8"),
        doc_idx=doc_idx.view("<i8"),
        sections={"sizes": ends[0], "pointers": ends[1], "doc_idx": ends[2]},
    )


def _read_old(path: Path, head: bytes) -> Layout:
    if len(head) < _OLD_HEADER.size:
        raise MccError(f"{path}: truncated in its header at byte {len(head)}", AGAIN)
    _, version, code, itemsize, count, sizes_count, entries = _OLD_HEADER.unpack(head)
    _check_version(path, version, 8)
    dtype = _dtype(path, code, 16)
    if itemsize != dtype.itemsize:
        raise MccError(f"{path}: tokens of {itemsize} bytes at byte 24, but {dtype} has {dtype.itemsize}", AGAIN)
    if sizes_count != count:
        raise MccError(f"{path}: {sizes_count} sizes at byte 40 for {count} sequences: not one number a sequence")
    offsets = 8 * (count + 1)
    ends = _sections(path, [_OLD_HEADER.size, offsets, offsets, 8 * count, 8 * entries], count)
    index: NDArray[np.uint8] = np.memmap(path, dtype=np.uint8, mode="r")
    dims, data, sizes, doc_idx = (index[ends[i] : ends[i + 1]].view("<i8") for i in range(4))
    narrow = np.empty(count, dtype=np.int32)
    pointers = np.empty(count, dtype=np.int64)
    for start in range(0, count + 1, _CHUNK):
        stop = min(start + _CHUNK, count + 1)
        if (wrong := np.flatnonzero(dims[start:stop] != np.arange(start, stop))).size:
            raise MccError(
                f"{path}: byte {ends[0] + 8 * (start + int(wrong[0]))}: sequences have more than a size each"
            )
        chunk = sizes[start:stop]
        if (wrong := np.flatnonzero((chunk < 0) | (chunk > np.iinfo(np.int32).max))).size:
            place = start + int(wrong[0])
            raise MccError(f"{path}: byte {ends[2] + 8 * place}: sequence {place} has {sizes[place]} tokens", AGAIN)
        narrow[start:stop] = chunk
        offset = data[start : min(stop, count)]
        if (wrong := np.flatnonzero((offset < 0) | (offset > np.iinfo(np.int64).max // itemsize))).size:
            place = start + int(wrong[0])
            raise MccError(f"{path}: byte {ends[1] + 8 * place}: sequence {place} starts at {data[place]}", AGAIN)
        pointers[start:stop] = offset * itemsize
    narrow.flags.writeable = pointers.flags.writeable = False
    return Layout(
        kind="cached",
        dtype=dtype,
        sizes=narrow,
        pointers=pointers,
        doc_idx=doc_idx,
        sections={"sizes": ends[2], "pointers": ends[1], "doc_idx": ends[3]},
    )


def _check_version(path: Path, version: int, byte: int) -> None:
    if version != VERSION:
        raise MccError(f"{path}: index version {version} at byte {byte}, only {VERSION} is known")


def _dtype(path: Path, code: int, byte: int) -> np.dtype[Any]:
    if code not in DTYPES:
        raise MccError(f"{path}: unknown dtype code {code} at byte {byte}")
    return DTYPES[code]


def _sections(path: Path, lengths: list[int], count: int) -> list[int]:
    """Where each part ends, when together they are the whole file."""
    ends = [sum(lengths[: i + 1]) for i in range(len(lengths))]
    present = path.stat().st_size
    if present < ends[-1]:
        raise MccError(
            f"{path}: truncated at byte {present}: its {count} sequences need {ends[-1]} bytes, it has {present}", AGAIN
        )
    if present > ends[-1]:
        raise MccError(
            f"{path}: {present - ends[-1]} bytes too many from byte {ends[-1]} on, after its {count} sequences", AGAIN
        )
    return ends
