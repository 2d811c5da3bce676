"""What every checkpoint format reads into and writes from: a model's tensors by global name, one at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mcc.ckpt.dtypes import cast
from mcc.core.errors import MccError
from mcc.models.base.bottleneck import fits, is_trained
from mcc.models.base.config import ModelConfig
from mcc.models.base.family import families, global_shape

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# The slot of the optimizer's exact copies of weights that are kept in 16 bits.
MASTER = "master"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a checkpoint is cut: tensor-, pipeline- and data-parallel sizes, chunks of layers in a pipeline stage."""

    tp: int = 1
    pp: int = 1
    dp: int = 1
    vpp: int = 1


@dataclass(frozen=True, kw_only=True)
class Meta:
    """What a checkpoint is besides its tensors.

    Args:
        config: the model; its `vocab_size` is the true one, without padding.
        iteration: optimizer steps taken, 0 when unknown.
        layout: how the files are cut.
        padded_vocab_size: rows of the embedding as stored.
        tokenizer: the tokenizer file (tokenizers' JSON) kept beside the weights, if any.
        extra: what the format has besides (format version, consumed samples), for `inspect`.
        unread: what the files hold and the format's reader leaves alone, for a warning when it is converted.
    """

    config: ModelConfig
    iteration: int = 0
    layout: Layout = field(default_factory=Layout)
    padded_vocab_size: int = 0
    tokenizer: Path | None = None
    extra: dict[str, object] = field(default_factory=dict)
    unread: tuple[str, ...] = ()


class Source(ABC):
    """An opened checkpoint. `read` gives whole tensors in our layout, whatever the files hold."""

    meta: Meta

    @abstractmethod
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Global name -> whole shape, the vocabulary without padding. Reads no tensor data."""

    @abstractmethod
    def dtypes(self) -> dict[str, torch.dtype]:
        """Global name -> stored dtype. Reads no tensor data."""

    @abstractmethod
    def read(self, name: str) -> Tensor:
        """The whole tensor called `name`, on the CPU, in the stored dtype.

        Raises:
            MccError: the file is truncated or misses the tensor; names both.
        """

    def read_part(self, name: str, dim: int, start: int, length: int) -> Tensor:
        """`read(name)` from `start` on along `dim`, `length` of it; a format that can reads no more than that.

        Raises:
            MccError: as `read`.
        """
        return self.read(name).narrow(dim, start, length)

    def slots(self) -> tuple[str, ...]:
        """Names of the optimizer state kept for every parameter (`exp_avg`, `exp_avg_sq`); empty when there is none."""
        return ()

    def read_slot(self, slot: str, name: str) -> Tensor:
        """The optimizer state `slot` of the parameter `name`: whole, in our layout, of the parameter's shape.

        Raises:
            MccError: the checkpoint has no such state.
        """
        raise MccError(f"this checkpoint has no optimizer state {slot!r}")

    def file_of(self, name: str) -> Path | None:
        """The file that holds the tensor called `name`, or the first part of it, for messages; None: not told."""
        return None

    def read_as(self, name: str, dtype: torch.dtype | None) -> Tensor:
        """The whole tensor called `name` as `dtype` (None: as stored).

        Where `dtype` holds more than what is stored, and the optimizer keeps an exact copy (slot `master`), it is of
        that copy.

        Raises:
            MccError: as `read`; or a number is beyond the range of `dtype`.
        """
        exact = MASTER in self.slots() and dtype is not None and dtype.itemsize > self.dtypes()[name].itemsize
        return cast(self.read_slot(MASTER, name) if exact else self.read(name), dtype, name)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor, one at a time."""
        for name in self.shapes():
            yield name, self.read(name)


def trained_shapes(
    stored: Mapping[str, tuple[int, ...]], config: ModelConfig, where: Path
) -> dict[str, tuple[int, ...]]:
    """Of the tensors `stored` in `where`, those of codecs that were trained with the model: name -> shape.

    Raises:
        MccError: one does not fit the model.
    """
    found = {name: shape for name, shape in stored.items() if is_trained(name)}
    for name, shape in found.items():
        if not fits(name, shape, config.hidden_size):
            raise MccError(
                f"{where}: tensor {name} of shape {list(shape)} does not fit the hidden size", "is it damaged?"
            )
    return found


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Global name -> whole shape of every tensor of a model, the vocabulary without padding."""
    family = families.get(config.family)()
    return {name: global_shape(row, config) for name, row, _ in family.table(config)}
