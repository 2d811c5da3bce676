"""A checkpoint seen through something: its numbers checked, its optimizer left out, several averaged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mcc.ckpt.source import Source
from mcc.core.errors import MccError
from mcc.core.events import SILENT, Reporter

if TYPE_CHECKING:
    from torch import Tensor

# Numbers looked at at a time where each is looked at: the mask of a whole embedding is memory that nobody needs.
_BLOCK = 1 << 22


class Through(Source):
    """Everything as `inner` has it; what a subclass changes it overrides."""

    def __init__(self, inner: Source) -> None:
        self.inner, self.meta = inner, inner.meta

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return self.inner.shapes()

    def dtypes(self) -> dict[str, torch.dtype]:
        return self.inner.dtypes()

    def read(self, name: str) -> Tensor:
        return self.inner.read(name)

    def slots(self) -> tuple[str, ...]:
        return self.inner.slots()

    def read_slot(self, slot: str, name: str) -> Tensor:
        return self.inner.read_slot(slot, name)

    def file_of(self, name: str) -> Path | None:
        return self.inner.file_of(name)


class WithoutOptimizer(Through):
    """The model alone."""

    def slots(self) -> tuple[str, ...]:
        return ()

    def read_slot(self, slot: str, name: str) -> Tensor:
        raise MccError(f"the optimizer state {slot!r} was left out")


class Checked(Through):
    """Looks at every tensor that is read, once: one with NaN or infinite numbers is refused, or warned of.

    Args:
        inner: the checkpoint.
        path: where it is, for messages.
        strict: refuse.
        reporter: told of the first such tensor where they are not refused, and by `finish` of how many more there were.
    """

    def __init__(self, inner: Source, path: Path, strict: bool = False, reporter: Reporter = SILENT) -> None:
        super().__init__(inner)
        self._path, self._strict, self._reporter = path, strict, reporter
        self._seen: set[str] = set()
        self._found = 0

    def read(self, name: str) -> Tensor:
        return self._look(self.inner.read(name), name, f"tensor {name}")

    def read_slot(self, slot: str, name: str) -> Tensor:
        return self._look(self.inner.read_slot(slot, name), f"{slot} of {name}", f"optimizer state {slot} of {name}")

    def finish(self) -> None:
        """Say how many tensors besides the one warned of have such numbers."""
        if self._found > 1:
            self._reporter.warn(f"{self._path}: {self._found - 1} more tensors hold NaN or infinite numbers")

    def _look(self, tensor: Tensor, key: str, what: str) -> Tensor:
        if key in self._seen:
            return tensor
        self._seen.add(key)
        nans, infinite = strange(tensor)
        if not nans and not infinite:
            return tensor
        self._found += 1
        counts = " and ".join(f"{n:,} {word}" for n, word in ((nans, "NaN"), (infinite, "infinite numbers")) if n)
        text = f"{self.file_of(key) or self._path}: {what} holds {counts}"
        if self._strict:
            raise MccError(text, "without --strict it is copied as it is")
        if self._found == 1:
            self._reporter.warn(f"{text}; copied as it is (--strict refuses)")
        return tensor


class Average(Through):
    """The mean of several checkpoints of one model, tensor by tensor, without their optimizers.

    Sums and the division are in float32 (float64 where the tensors are), in the order given; the mean is rounded once
    to the stored dtype.

    Args:
        sources: the checkpoints; what is no tensor is the last one's.

    Raises:
        MccError: they are of different models.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        super().__init__(sources[-1])
        self._sources = sources
        shapes, dtypes = self.shapes(), self.dtypes()
        for source in sources[:-1]:
            if source.meta.config != self.meta.config or source.shapes() != shapes or source.dtypes() != dtypes:
                raise MccError(
                    f"the checkpoints of iterations {source.meta.iteration} and {self.meta.iteration} are of different"
                    " models or dtypes: they have no average"
                )

    def slots(self) -> tuple[str, ...]:
        return ()

    def read(self, name: str) -> Tensor:
        total: Tensor | None = None
        for source in self._sources:
            tensor = source.read(name)
            if not tensor.is_floating_point():
                return self.inner.read(name)
            wide = torch.promote_types(tensor.dtype, torch.float32)
            total = tensor.to(wide, copy=True) if total is None else total.add_(tensor)
        assert total is not None
        return total.div_(len(self._sources)).to(self.dtypes()[name])


def strange(tensor: Tensor) -> tuple[int, int]:
    """How many NaN and how many infinite numbers are in `tensor`.

    >>> strange(torch.tensor([1.0, float("nan"), float("-inf")]))
    (1, 1)
    """
    if not tensor.is_floating_point() or not tensor.numel():
        return 0, 0
    if tensor.dtype.itemsize > 1 and bool(tensor.sum().isfinite()):  # any such number makes the sum one
        return 0, 0
    nans = infinite = 0
    # The sum of finite numbers may be beyond the range, too.
    for block in tensor.reshape(-1).split(_BLOCK):
        wide = block.float() if block.dtype.itemsize == 1 else block
        nans += int(wide.isnan().sum())
        infinite += int(wide.isinf().sum())
    return nans, infinite
