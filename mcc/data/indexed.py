"""Megatron-LM's memory-mapped token files: `PREFIX.bin` holds tokens end to end, `PREFIX.idx` says where they start.

Layout of the index (little-endian): 9 bytes `MMIDIDX\\0\\0`; u64 version = 1; u8 dtype code; u64 S; u64 D;
i32 sizes[S] in tokens; i64 pointers[S] in bytes; i64 doc_idx[D], which starts with 0 and has one entry more than
there are documents: document d is the sequences doc_idx[d] .. doc_idx[d+1]-1.
"""

# S sequences, D entries of doc_idx (documents + 1)

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mcc.core.errors import MccError
from mcc.core.files import atomic_path, remove, require_file

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
_HEADER = struct.Struct("<9sQBQQ")
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
# Megatron-LM's limit: 16 bits hold 65536 values, the last ones are left free.
UINT16_VOCABULARY = 65500
_AGAIN = "write the token files again"

Tokens = NDArray[Any]


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """uint16 when `vocab_size` is below 65500, else int32.

    >>> token_dtype(50257), token_dtype(100_000)
    (dtype('uint16'), dtype('int32'))
    """
    return DTYPES[8] if vocab_size < UINT16_VOCABULARY else DTYPES[4]


def index_path(prefix: str | Path) -> Path:
    """`PREFIX.idx`."""
    return Path(f"{prefix}.idx")


def bin_path(prefix: str | Path) -> Path:
    """`PREFIX.bin`."""
    return Path(f"{prefix}.bin")


class IndexedDataset:
    """The sequences of `PREFIX.bin`, mapped into memory: opening costs nothing, however large the file.

    Args:
        prefix: path without `.bin` / `.idx` (either ending is accepted too).

    Attributes:
        sizes: int32[S], tokens of each sequence.
        pointers: int64[S], byte offset of each sequence.
        doc_idx: int64[D], first sequence of each document, and S at the end.

    Raises:
        MccError: a file is missing, truncated, of another format, or the two do not belong together.
    """

    def __init__(self, prefix: str | Path) -> None:
        name = str(prefix)
        self.prefix = Path(name[:-4] if name.endswith((".bin", ".idx")) else name)
        self._index_path = require_file(index_path(self.prefix), "token index")
        self._bin_path = require_file(bin_path(self.prefix), "token file")
        count, doc_count = self._read_header()
        index: NDArray[np.uint8] = np.memmap(self._index_path, dtype=np.uint8, mode="r")
        ends = np.cumsum([_HEADER.size, 4 * count, 8 * count, 8 * doc_count])
        sizes, pointers, doc_idx = (index[ends[i] : ends[i + 1]] for i in range(3))
        self.sizes: NDArray[np.int32] = sizes.view("<i4")
        self.pointers: NDArray[np.int64] = pointers.view("<i8")
        self.doc_idx: NDArray[np.int64] = doc_idx.view("<i8")
        stored = self._bin_path.stat().st_size // self.dtype.itemsize
        # An empty file cannot be mapped.
        self._tokens: Tokens = (
            np.memmap(self._bin_path, dtype=self.dtype, mode="r", shape=(stored,))
            if stored
            else np.empty(0, self.dtype)
        )
        self._check_ends()

    def _read_header(self) -> tuple[int, int]:
        path = self._index_path
        with path.open("rb") as file:
            head = file.read(_HEADER.size)
        if not head.startswith(MAGIC):
            if head.startswith(b"TNTIDX"):
                raise MccError(f"{path}: a 'lazy' or 'cached' index, not an mmap one", "write it again as mmap")
            raise MccError(
                f"{path}: not a token index (it starts with {head[:9]!r})", "give the prefix of .bin/.idx files"
            )
        if len(head) < _HEADER.size:
            raise MccError(f"{path}: truncated in its header at byte {len(head)}", _AGAIN)
        _, version, code, count, doc_count = _HEADER.unpack(head)
        if version != VERSION:
            raise MccError(f"{path}: index version {version}, only {VERSION} is known")
        if code not in DTYPES:
            raise MccError(f"{path}: unknown dtype code {code} at byte 17")
        self.dtype = DTYPES[code]
        needed = _HEADER.size + 12 * count + 8 * doc_count
        present = path.stat().st_size
        if present < needed:
            raise MccError(f"{path}: truncated: its {count} sequences need {needed} bytes, it has {present}", _AGAIN)
        if present > needed:
            raise MccError(f"{path}: {present - needed} bytes too many after its {count} sequences", _AGAIN)
        return count, doc_count

    def _check_ends(self) -> None:
        """What costs nothing to check on opening; `verify` checks every pointer."""
        if len(self.doc_idx) and (self.doc_idx[0] != 0 or self.doc_idx[-1] != len(self)):
            raise MccError(f"{self._index_path}: documents do not cover all {len(self)} sequences", _AGAIN)
        if len(self):
            needed = int(self.pointers[-1]) + int(self.sizes[-1]) * self.dtype.itemsize
            present = self._bin_path.stat().st_size
            if needed > present:
                raise MccError(
                    f"{self._bin_path}: truncated: its index needs {needed} bytes, it has {present}",
                    _AGAIN,
                )

    def verify(self) -> None:
        """Check every size, pointer and document entry.

        Raises:
            MccError: one is out of bounds; names the first.
        """
        itemsize = self.dtype.itemsize
        ends = self.pointers + self.sizes.astype(np.int64) * itemsize
        bad = np.flatnonzero(
            (self.sizes < 0)
            | (self.pointers < 0)
            | (self.pointers % itemsize != 0)
            | (ends > self._bin_path.stat().st_size)
        )
        if bad.size:
            i = int(bad[0])
            raise MccError(
                f"{self._index_path}: sequence {i} ({self.sizes[i]} tokens at byte {self.pointers[i]}) "
                f"is not inside {self._bin_path}"
            )
        if not len(self.doc_idx) or (np.diff(self.doc_idx) < 0).any():
            raise MccError(f"{self._index_path}: document entries are not in order")

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def tokens(self) -> int:
        """How many tokens all sequences hold."""
        return int(self.sizes.sum(dtype=np.int64))

    @property
    def documents(self) -> int:
        """How many documents there are (a document is one sequence unless sentences were split)."""
        return max(len(self.doc_idx) - 1, 0)

    def __getitem__(self, i: int) -> Tokens:
        return self.get(i)

    def get(self, i: int, offset: int = 0, length: int | None = None) -> Tokens:
        """`length` tokens (default: to the end) of sequence `i` from token `offset`, as a read-only view.

        Raises:
            IndexError: there is no sequence `i`, or it has fewer tokens.
        """
        if not -len(self) <= i < len(self):
            raise IndexError(f"sequence {i} of {len(self)}")
        size = int(self.sizes[i])
        length = size - offset if length is None else length
        if offset < 0 or length < 0 or offset + length > size:
            raise IndexError(f"tokens {offset}..{offset + length} of sequence {i}, which has {size}")
        start = int(self.pointers[i]) // self.dtype.itemsize + offset
        return self._tokens[start : start + length]

    def __iter__(self) -> Iterator[Tokens]:
        return (self.get(i) for i in range(len(self)))

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker process maps the files itself.
        return (IndexedDataset, (self.prefix,))

    def __repr__(self) -> str:
        return f"IndexedDataset({str(self.prefix)!r}: {len(self)} sequences, {self.dtype})"


class IndexedWriter:
    """Writes `PREFIX.bin` and `PREFIX.idx`; both appear when the `with` block ends well, or neither.

    Args:
        prefix: path without ending.
        dtype: of the stored tokens, see `token_dtype`.

    Raises:
        MccError: a token does not fit `dtype`, or the files cannot be written.
    """

    def __init__(self, prefix: str | Path, dtype: DTypeLike) -> None:
        self.prefix = Path(prefix)
        self.dtype = np.dtype(dtype).newbyteorder("<")
        codes = [code for code, known in DTYPES.items() if known == self.dtype]
        if not codes:
            raise MccError(f"token files cannot hold {self.dtype}", "use uint16 or int32")
        self._code = codes[0]
        self._sizes = array("i")
        self._doc_idx = array("q", [0])
        self._stack = ExitStack()
        self._file: BinaryIO | None = None

    def __enter__(self) -> IndexedWriter:
        with ExitStack() as stack:
            # Left in reverse order: the tokens get their name first, the index that makes them readable last.
            self._index_temporary = stack.enter_context(atomic_path(index_path(self.prefix)))
            self._bin_temporary = stack.enter_context(atomic_path(bin_path(self.prefix)))
            self._file = self._bin_temporary.open("wb")
            stack.callback(self._file.close)
            self._stack = stack.pop_all()
        return self

    def add(self, tokens: Sequence[int] | Tokens, *, end_document: bool = True) -> None:
        """Append one sequence; with `end_document` it is the last (by default the only one) of its document."""
        self.add_many(tokens, (len(tokens),), end_documents=end_document)

    def add_many(self, tokens: Sequence[int] | Tokens, lengths: Iterable[int], *, end_documents: bool = True) -> None:
        """Append sequences that stand end to end in `tokens`, `lengths` tokens each, each its own document."""
        assert self._file is not None, "use IndexedWriter in a `with` statement"
        sizes = array("i", lengths)
        assert sum(sizes) == len(tokens)
        self._file.write(self._checked(tokens).tobytes())
        before = len(self._sizes)
        self._sizes.extend(sizes)
        if end_documents:
            self._doc_idx.extend(range(before + 1, before + len(sizes) + 1))

    def end_document(self) -> None:
        """End a document; one without sequences counts too, as in Megatron-LM."""
        self._doc_idx.append(len(self._sizes))

    @property
    def tokens(self) -> int:
        """How many tokens have been added."""
        return sum(self._sizes)

    def __len__(self) -> int:
        return len(self._sizes)

    def _checked(self, tokens: Sequence[int] | Tokens) -> Tokens:
        values = np.asarray(tokens, dtype=np.int64) if not isinstance(tokens, np.ndarray) else tokens
        if values.dtype != self.dtype and values.size:
            low, high = int(values.min()), int(values.max())
            limits = np.iinfo(self.dtype)
            if low < limits.min or high > limits.max:
                raise MccError(
                    f"{self.prefix}: token {high if high > limits.max else low} does not fit {self.dtype}",
                    "the vocabulary is larger than said",
                )
        return values.astype(self.dtype, copy=False)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if kind is None:
            try:
                assert self._file is not None
                self._file.close()
                self._write_index()
                # An old index beside new tokens would be read as garbage: without one, opening fails clearly.
                remove(index_path(self.prefix))
            except BaseException as failure:
                self._stack.__exit__(type(failure), failure, failure.__traceback__)
                raise
        return self._stack.__exit__(kind, error, trace)

    def _write_index(self) -> None:
        sizes = np.frombuffer(self._sizes, dtype=np.int32) if self._sizes else np.empty(0, np.int32)
        pointers = np.zeros(len(sizes), dtype="<i8")
        np.cumsum(sizes[:-1].astype(np.int64) * self.dtype.itemsize, out=pointers[1:])
        with self._index_temporary.open("wb") as file:
            file.write(_HEADER.pack(MAGIC, VERSION, self._code, len(sizes), len(self._doc_idx)))
            file.write(sizes.astype("<i4").tobytes())
            file.write(pointers.tobytes())
            file.write(np.frombuffer(self._doc_idx, dtype=np.int64).astype("<i8").tobytes())
