"""What Megatron-LM's preprocess_data.py writes, number by number, from its description: the reference of tests."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from pathlib import Path


def write(
    prefix: Path,
    documents: Sequence[Sequence[str]],
    encode: Callable[[str], Sequence[int]],
    eod: int | None,
    wide: bool,
) -> None:
    """Token files for documents of sentences (one, when they are not split).

    Sentences without tokens are left out; the end token is counted in a document's last sentence; a document without
    tokens gets none and is an entry all the same.
    """
    tokens, sizes, pointers, entries = b"", b"", b"", struct.pack("<q", 0)
    sequences = 0
    for sentences in documents:
        encoded = [ids for ids in ([*encode(sentence)] for sentence in sentences) if ids]
        if encoded and eod is not None:
            encoded[-1].append(eod)
        for ids in encoded:
            sizes += struct.pack("<i", len(ids))
            pointers += struct.pack("<q", len(tokens))
            tokens += b"".join(struct.pack("<i" if wide else "<H", i) for i in ids)
            sequences += 1
        entries += struct.pack("<q", sequences)
    code = 4 if wide else 8
    head = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, code, sequences, len(documents) + 1)
    Path(f"{prefix}.bin").write_bytes(tokens)
    Path(f"{prefix}.idx").write_bytes(head + sizes + pointers + entries)


def files(prefix: Path | str) -> tuple[bytes, bytes]:
    """(tokens, index)."""
    return Path(f"{prefix}.bin").read_bytes(), Path(f"{prefix}.idx").read_bytes()


def write_old(prefix: Path, documents: Sequence[Sequence[int]], code: int = 8) -> None:
    """The older `cached` / `lazy` files, a sequence a document."""
    width = {8: 2, 4: 4}[code]
    sizes = [len(tokens) for tokens in documents]
    ends = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    n = len(sizes)
    index = b"TNTIDX\0\0" + struct.pack("<QQQQQQ", 1, code, width, n, n, n + 1)
    for numbers in (range(n + 1), ends, sizes, range(n + 1)):
        index += b"".join(struct.pack("<q", number) for number in numbers)
    Path(f"{prefix}.idx").write_bytes(index)
    flat = [token for tokens in documents for token in tokens]
    Path(f"{prefix}.bin").write_bytes(b"".join(struct.pack("<i" if width == 4 else "<H", t) for t in flat))
