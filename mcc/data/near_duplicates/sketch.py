"""The engines that make sketches of documents: our own, and datasketch's MinHash."""

# n documents, b bands, S bytes of a sketch

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcc.core.errors import unknown
from mcc.data.near_duplicates.minhash import SKETCH_VERSION, Bands, Signer

# Documents whose whole sketches are in memory at once.
_AT_ONCE = 2048


class Engine(ABC):
    """Turns texts into sketches that are kept, and keys of bands by which candidates meet.

    Args:
        bands: of a sketch.
        chars: characters of a shingle.
    """

    name: str
    sketch_bytes: int

    def __init__(self, bands: Bands, chars: int) -> None:
        self.signer = Signer(bands, chars)

    @abstractmethod
    def sketches(self, texts: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
        """uint64[b, n] keys and uint8[n, S] sketches."""

    @abstractmethod
    def likeness(self, one: bytes, others: Sequence[bytes]) -> NDArray[np.float64]:
        """The estimated Jaccard index of one sketch with each of some others."""

    @property
    @abstractmethod
    def samples(self) -> int:
        """How many values an estimate rests on."""

    @classmethod
    @abstractmethod
    def version(cls) -> str:
        """Sketches of different versions cannot be compared."""


class Fast(Engine):
    """`mcc.data.near_duplicates.minhash`, many times the speed of datasketch. A byte of every value is kept."""

    name = "fast"

    def __init__(self, bands: Bands, chars: int) -> None:
        super().__init__(bands, chars)
        self.sketch_bytes = self.signer.slots

    def sketches(self, texts: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
        """Those of `Signer`."""
        keys, rows = [], []
        for start in range(0, len(texts), _AT_ONCE):
            found = self.signer.sketches(texts[start : start + _AT_ONCE])
            keys.append(self.signer.band_keys(found))
            rows.append(found.astype(np.uint8))
        return np.concatenate(keys, axis=1), np.concatenate(rows)

    def likeness(self, one: bytes, others: Sequence[bytes]) -> NDArray[np.float64]:
        """The share of equal bytes."""
        values = np.frombuffer(b"".join(others), dtype=np.uint8).reshape(len(others), -1)
        same = np.count_nonzero(values == np.frombuffer(one, dtype=np.uint8), axis=1)
        return same / values.shape[1]

    @property
    def samples(self) -> int:
        """All slots."""
        return self.signer.slots

    @classmethod
    def version(cls) -> str:
        """Ours; it does not change with that of the package."""
        return f"mcc sketch {SKETCH_VERSION}"


class Datasketch(Engine):
    """datasketch's `MinHash` of shingles in UTF-8; documents meet where they meet in its `MinHashLSH`.

    A sketch is kept as `LeanMinHash.serialize` writes it, so that `LeanMinHash.deserialize` reads it.
    """

    name = "datasketch"

    def __init__(self, bands: Bands, chars: int) -> None:
        super().__init__(bands, chars)
        self.bands, self.chars = bands, chars
        _, self.sketch_bytes = self._lean("")

    def _lean(self, text: str) -> tuple[Any, int]:
        from datasketch import LeanMinHash, MinHash

        found = MinHash(num_perm=self.samples)
        last = max(len(text) - self.chars, 0) + 1
        found.update_batch([part.encode() for part in {text[i : i + self.chars] for i in range(last)}])
        lean = LeanMinHash(found)
        return lean, lean.bytesize()

    def sketches(self, texts: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
        """One document after the other."""
        rows = np.zeros((len(texts), self.sketch_bytes), dtype=np.uint8)
        values = np.zeros((len(texts), self.samples), dtype=np.uint32)
        for i, text in enumerate(texts):
            lean, _ = self._lean(text)
            buffer = bytearray(self.sketch_bytes)
            lean.serialize(buffer)
            rows[i] = np.frombuffer(buffer, dtype=np.uint8)
            values[i] = lean.hashvalues
        return self.signer.band_keys(values), rows

    def likeness(self, one: bytes, others: Sequence[bytes]) -> NDArray[np.float64]:
        """The share of equal hash values; they stand at the end, four bytes each."""
        width = 4 * self.samples
        values = np.frombuffer(b"".join(other[-width:] for other in others), dtype=np.uint32).reshape(len(others), -1)
        same = np.count_nonzero(values == np.frombuffer(one[-width:], dtype=np.uint32), axis=1)
        return same / self.samples

    @property
    def samples(self) -> int:
        """Permutations: those that the bands use."""
        return self.bands.bands * self.bands.rows

    @classmethod
    def version(cls) -> str:
        """The package's: its hash values changed with 2.0."""
        import datasketch

        return f"datasketch {datasketch.__version__}"


ENGINES: dict[str, type[Engine]] = {engine.name: engine for engine in (Fast, Datasketch)}


def engine_class(name: str) -> type[Engine]:
    """The engine of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in ENGINES:
        raise unknown("engine", name, ENGINES)
    return ENGINES[name]
