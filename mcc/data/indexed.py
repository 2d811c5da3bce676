"""Megatron-LM's token files: `PREFIX.bin` holds tokens end to end, `PREFIX.idx` says where they start.

The layouts that can be read are described in `mcc.data.tokens.layouts`; the mapped one is written.
"""

# S sequences, D entries of doc_idx (documents + 1)

from __future__ import annotations

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
from mcc.data.tokens.index_file import pieces, write_index
from mcc.data.tokens.layouts import AGAIN, DTYPES, code_of, read_layout

# Megatron-LM's limit: 16 bits hold 65536 values, the last ones are left free.
UINT16_VOCABULARY = 65500

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
        layout: how the files are laid out, with the places of what they say.

    Raises:
        MccError: a file is missing, truncated, of another format, or the two do not belong together.
    """

    def __init__(self, prefix: str | Path) -> None:
        name = str(prefix)
        self.prefix = Path(name[:-4] if name.endswith((".bin", ".idx")) else name)
        self._index_path = require_file(index_path(self.prefix), "token index")
        self._bin_path = require_file(bin_path(self.prefix), "token file")
        layout = read_layout(self._index_path)
        self.layout = layout
        self.dtype = layout.dtype
        self.sizes, self.pointers, self.doc_idx = layout.sizes, layout.pointers, layout.doc_idx
        stored = self._bin_path.stat().st_size // self.dtype.itemsize
        # An empty file cannot be mapped. A plain view of the map is cut several times as fast as the map itself.
        self._tokens: Tokens = (
            np.memmap(self._bin_path, dtype=self.dtype, mode="r", shape=(stored,)).view(np.ndarray)
            if stored
            else np.empty(0, self.dtype)
        )
        self._check_ends()

    def _check_ends(self) -> None:
        """What costs nothing to check on opening; `verify` checks every pointer."""
        for i, wanted in ((0, 0), (-1, len(self))) if len(self.doc_idx) else ():
            if self.doc_idx[i] != wanted:
                byte = self.layout.place("doc_idx", i % len(self.doc_idx))
                raise MccError(
                    f"{self._index_path}: byte {byte}: documents do not cover all {len(self)} sequences", AGAIN
                )
        if len(self):
            needed = int(self.pointers[-1]) + int(self.sizes[-1]) * self.dtype.itemsize
            present = self._bin_path.stat().st_size
            if needed > present:
                raise MccError(
                    f"{self._bin_path}: truncated at byte {present}: its index needs {needed} bytes",
                    AGAIN,
                )

    def verify(self) -> None:
        """Check every size, pointer and document entry.

        Raises:
            MccError: one is out of bounds; names the first and its byte.
        """
        itemsize, present = self.dtype.itemsize, self._bin_path.stat().st_size
        start = 0
        for sizes, pointers in zip(pieces(self.sizes), pieces(self.pointers), strict=True):
            # Compared without adding, which could overflow.
            room = present - pointers
            bad = (sizes < 0) | (pointers < 0) | (pointers % itemsize != 0) | (sizes.astype(np.int64) * itemsize > room)
            if bad.any():
                i = start + int(np.flatnonzero(bad)[0])
                raise MccError(
                    f"{self._index_path}: byte {self.layout.place('sizes' if self.sizes[i] < 0 else 'pointers', i)}: "
                    f"sequence {i} ({self.sizes[i]} tokens at byte {self.pointers[i]}) is not inside {self._bin_path}",
                    AGAIN,
                )
            start += len(sizes)
        if not len(self.doc_idx):
            raise MccError(f"{self._index_path}: it has no document entries", AGAIN)
        last, start = 0, 0
        for entries in pieces(self.doc_idx):
            steps = np.diff(entries, prepend=last)
            if (steps < 0).any():
                i = start + int(np.flatnonzero(steps < 0)[0])
                raise MccError(
                    f"{self._index_path}: byte {self.layout.place('doc_idx', i)}: document entry {i} is "
                    f"{self.doc_idx[i]}, less than the one before",
                    AGAIN,
                )
            last, start = int(entries[-1]), start + len(entries)

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
        code_of(self.dtype)
        self._sizes = array("i")
        self._documents = array("i")
        self._open = 0
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
        self._sizes.extend(sizes)
        if not end_documents:
            self._open += len(sizes)
        elif len(sizes):
            self._documents.extend([self._open + 1, *[1] * (len(sizes) - 1)])
            self._open = 0

    def end_document(self) -> None:
        """End a document; one without sequences counts too, as in Megatron-LM."""
        self._documents.append(self._open)
        self._open = 0

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
        sizes, documents = (np.array(values, dtype=np.int32) for values in (self._sizes, self._documents))
        write_index(self._index_temporary, self.dtype, lambda: [sizes], lambda: [documents])
