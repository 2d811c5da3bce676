"""A model family: every parameter's name, shape, sharding, and its name in the foreign formats, in one table.

Training shards by this table, checkpoints convert by it. Shapes are symbols, resolved for one configuration:

    V vocabulary   D hidden size   T positions   F inner width of the MLP   3D the fused query/key/value
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from mcc.core.plugins import Kind
from mcc.models.base.config import ModelConfig

if TYPE_CHECKING:
    from mcc.models.base.axes import Axes
    from mcc.models.base.transformer import Stage

Where = Literal["first", "layer", "last"]
Init = Literal["normal", "scaled", "zeros", "ones"]


@dataclass(frozen=True, kw_only=True)
class Param:
    """One row of a family's table. `{i}` in a name stands for the layer's global index.

    Args:
        name: global name, the same in every layout.
        shape: symbols of the legend above; `V` is the true vocabulary in a `Source`, the padded one in a layout.
        where: which pipeline stage holds it: the first, its layer's, or the last.
        tp_dim: the dim that tensor parallelism shards, or None when it is replicated.
        init: `scaled` is normal / sqrt(2 x layers), for what writes into the residual stream.
        hf: name in the family's transformers model, below `hf_form`'s change of layout.
        hf_form: a name of `mcc.models.base.forms`: how the tensor is laid out there.
        megatron: name in Megatron-LM's model tree, dots between the nested dictionaries.
    """

    name: str
    shape: tuple[str, ...]
    where: Where = "layer"
    tp_dim: int | None = None
    init: Init = "zeros"
    hf: str
    hf_form: str = "same"
    megatron: str


class Family(ABC):
    """A model family. One file of `mcc/models` each; the file's name is the family's.

    Attributes:
        params: the table.
        tied: whether the output layer is the token embedding.
        hf_model_type: `model_type` in transformers' config.json.
    """

    params: ClassVar[tuple[Param, ...]]
    tied: ClassVar[bool] = True
    hf_model_type: ClassVar[str]

    def to_hf_config(self, config: ModelConfig) -> dict[str, object]:
        """The values of transformers' config.json for `config`."""
        raise NotImplementedError

    def from_hf_config(self, values: dict[str, object]) -> ModelConfig:
        """The inverse of `to_hf_config`.

        Raises:
            MccError: the configuration asks for something that the family does not have.
        """
        raise NotImplementedError

    def build(self, config: ModelConfig, axes: Axes, layers: range, first: bool = True, last: bool = True) -> Stage:
        """A pipeline stage's module with this rank's shards, not yet initialised (see `initialize`)."""
        raise NotImplementedError

    def table(self, config: ModelConfig) -> Iterator[tuple[str, Param, int | None]]:
        """Every parameter of a whole model: (global name, its row, its layer's index or None)."""
        for row in self.params:
            if row.where != "layer":
                yield row.name, row, None
        for i in range(config.num_layers):
            for row in self.params:
                if row.where == "layer":
                    yield row.name.format(i=i), row, i

    def row(self, name: str) -> Param:
        """The table's row for the global parameter `name`.

        >>> families.get("gpt2")().row("layers.7.attention.qkv.weight").tp_dim
        0
        """
        parts = name.split(".")
        generic = ".".join("{i}" if part.isdigit() else part for part in parts)
        return next(row for row in self.params if row.name == generic)


def sizes(config: ModelConfig, vocab_rows: int | None = None) -> dict[str, int]:
    """What the symbols of a shape stand for; `vocab_rows` is the true vocabulary when left out."""
    return {
        "V": config.vocab_size if vocab_rows is None else vocab_rows,
        "D": config.hidden_size,
        "T": config.seq_length,
        "F": config.ffn_size,
        "3D": 3 * config.hidden_size,
    }


def global_shape(row: Param, config: ModelConfig, vocab_rows: int | None = None) -> tuple[int, ...]:
    """The shape of the whole (unsharded) parameter.

    >>> row = families.get("gpt2")().row("embedding.tokens.weight")
    >>> global_shape(row, ModelConfig(vocab_size=1000, hidden_size=64), vocab_rows=1024)
    (1024, 64)
    """
    resolved = sizes(config, vocab_rows)
    return tuple(resolved[symbol] for symbol in row.shape)


families: Kind[Family] = Kind("model family", "mcc.models", Family)
