"""Names of documents as short values of one size, to be sorted and compared."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np

NAME = np.dtype("S16")


def digest(name: bytes) -> bytes:
    """A value of `NAME` for a name."""
    # Never a zero at the end: numpy takes it for padding.
    return blake2b(name, digest_size=15).digest() + b"\1"
