"""Rows of bytes by number, for a codec that remembers something of every sample; here in memory.

`mcc.train.compress.disk_store` has them on disk.

    K rows asked for   W bytes of a row

Rows lie in blocks, so that growing copies nothing and a checkpoint is written block by block.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

_BLOCK_BYTES = 16 << 20


class Rows(ABC):
    """Rows of `width` bytes, numbered from 0 in the order in which they are first written."""

    def __init__(self, width: int) -> None:
        self.width, self.count = width, 0
        self.per_block = max(1, _BLOCK_BYTES // width)

    @abstractmethod
    def read(self, numbers: Sequence[int]) -> Tensor:
        """uint8[K, W] on the host: these rows as they were written last."""

    @abstractmethod
    def write(self, numbers: Sequence[int], rows: Tensor) -> None:
        """Write uint8[K, W]; a number that stands twice gets its last row. `numbers` may go up to one past `count`."""

    @abstractmethod
    def blocks(self) -> Iterator[Tensor]:
        """All rows, uint8[up to per_block, W] at a time; valid until the next write."""

    def snapshot(self) -> Iterator[Tensor]:
        """`blocks` as they are now, whatever is written later."""
        return (block.clone() for block in self.blocks())

    def expect(self, numbers: Sequence[int]) -> None:  # noqa: B027  (a store may have nothing to do)
        """These rows are going to be read soon."""

    def _grow(self, number: int) -> None:
        assert number <= self.count, f"row {number} after {self.count} rows"
        self.count = max(self.count, number + 1)


class RamRows(Rows):
    """Rows in memory. A block's pages become real when they are written."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self._blocks: list[Tensor] = []

    def read(self, numbers: Sequence[int]) -> Tensor:
        return torch.stack([self._row(number) for number in numbers])

    def write(self, numbers: Sequence[int], rows: Tensor) -> None:
        for number, row in zip(numbers, rows, strict=True):
            self._grow(number)
            if number // self.per_block == len(self._blocks):
                self._blocks.append(torch.empty(self.per_block, self.width, dtype=torch.uint8))
            self._row(number).copy_(row)

    def blocks(self) -> Iterator[Tensor]:
        for index, block in enumerate(self._blocks):
            yield block[: self.count - index * self.per_block]

    def _row(self, number: int) -> Tensor:
        block, place = divmod(number, self.per_block)
        return self._blocks[block][place]
