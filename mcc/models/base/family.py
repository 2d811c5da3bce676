"""A model family: every parameter's name, shape, sharding, and its name in the foreign formats, in one table.

Training shards by this table, checkpoints convert by it. Shapes are symbols, resolved for one configuration:

    V vocabulary   D hidden size   T positions   T2 these and two rows before them   S token types   C classes
    F inner width of the MLP
    A all heads' channels   QKV the fused query/key/value: A and twice the key/value heads' channels
    Z what a trained codec sends: the run's choice, so that no configuration resolves it
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from mcc.core.errors import UsageError, unknown
from mcc.core.plugins import Kind
from mcc.models.base.blueprint import LANGUAGE, Blueprint
from mcc.models.base.config import ModelConfig

if TYPE_CHECKING:
    from mcc.models.base.axes import Axes
    from mcc.models.base.transformer import Stage

Where = Literal["first", "layer", "last"]
Init = Literal["normal", "scaled", "zeros", "ones", "xavier"]

TOKENS = "embedding.tokens.weight"


@dataclass(frozen=True, kw_only=True)
class Param:
    """One row of a family's table. `{i}` in a name stands for the layer's global index.

    Args:
        name: global name, the same in every layout.
        shape: symbols of the legend above; `V` is the true vocabulary in a `Source`, the padded one in a layout.
        where: which pipeline stage holds it: the first, its layer's, or the last.
        tp_dim: the dim that tensor parallelism shards, or None when it is replicated.
        init: `scaled` is normal / sqrt(2 x layers), for what writes into the residual stream; `xavier` is uniform in
            +-sqrt(6 / (inputs + outputs)) (Glorot & Bengio 2010, equation 16).
        heads: the heads that have it; all when empty.
        untied: it is there only where the output layer has weights of its own.
        tokens: under sequence parallelism, whether it meets this rank's own tokens, so that a replicated one's
            gradients are summed over the tensor-parallel ranks, or all tokens on every rank alike.
        partial: a replicated one meets each tensor-parallel rank's partial sums, so that its gradients are summed over
            these ranks also without sequence parallelism.
        hf: name in the family's transformers model, below `hf_form`'s change of layout; several where several tensors
            there, one under the other, are one of ours.
        hf_form: a name of `mcc.models.base.forms`: how the tensor is laid out there.
        megatron: name in Megatron-LM's model tree, dots between the nested dictionaries; empty: Megatron-LM has none.
            `{next}` stands for the layer after its own, whose input it normalises there; the last layer's is the final
            norm.
        megatron_part: (k, n) where each rank's tensor there is n of ours, one under the other, this one the k-th.
    """

    name: str
    shape: tuple[str, ...]
    where: Where = "layer"
    tp_dim: int | None = None
    init: Init = "zeros"
    heads: tuple[str, ...] = ()
    untied: bool = False
    tokens: Literal["own", "all"] = "own"
    partial: bool = False
    hf: str | tuple[str, ...]
    hf_form: str = "same"
    megatron: str = ""
    megatron_part: tuple[int, int] = (0, 1)

    def hf_names(self, layer: int | None) -> tuple[str, ...]:
        """`hf` as a tuple, for one layer."""
        names = (self.hf,) if isinstance(self.hf, str) else self.hf
        return tuple(name.format(i=layer) for name in names)


class Family(ABC):
    """A model family. One file of `mcc/models` each; the file's name is the family's.

    Attributes:
        blueprint: what its Transformer is made of.
        params: the table.
        hf_model_type: `model_type` in transformers' config.json.
        hf_classes: head -> transformers' class for it.
    """

    blueprint: ClassVar[Blueprint]
    params: ClassVar[tuple[Param, ...]]
    hf_model_type: ClassVar[str]
    hf_classes: ClassVar[dict[str, str]]

    @property
    def name(self) -> str:
        """The public name: the file's."""
        return type(self).__module__.rpartition(".")[2].replace("_", "-")

    def to_hf_config(self, config: ModelConfig) -> dict[str, object]:
        """The values of transformers' config.json for `config`."""
        raise NotImplementedError

    def from_hf_config(self, values: dict[str, object]) -> ModelConfig:
        """The inverse of `to_hf_config`.

        Raises:
            MccError: the configuration asks for something that the family does not have.
        """
        raise NotImplementedError

    def tied(self, config: ModelConfig) -> bool:
        """Whether the last stage has an output layer that is the token embedding."""
        return config.head in LANGUAGE and not config.untie_embeddings_and_output_weights

    def check(self, config: ModelConfig) -> None:
        """Refuse a head or an option that the family does not have.

        Raises:
            UsageError: it has none such.
        """
        if config.head not in self.blueprint.heads:
            raise unknown(f"head of family {self.name}", config.head, list(self.blueprint.heads))
        if config.untie_embeddings_and_output_weights and not any(row.untied for row in self.params):
            raise UsageError(f"family {self.name} has no output layer of its own: it is the token embedding")
        if self.blueprint.positions == "rotary" and config.rotary_dim % 2:
            raise UsageError(f"rotary positions need an even number of channels a head, not {config.rotary_dim}")
        if config.sliding_window is not None and not self.blueprint.window:
            raise UsageError(f"family {self.name} has no sliding window")

    def build(self, config: ModelConfig, axes: Axes, layers: range, first: bool = True, last: bool = True) -> Stage:
        """A pipeline stage's module with this rank's shards, not yet initialised (see `initialize`).

        Under `torch.device("meta")` it takes no memory until `initialize` gives it some.
        """
        from mcc.models.base.transformer import Stage

        self.check(config)
        return Stage(config, self.blueprint, axes, layers, first, last)

    def table(self, config: ModelConfig) -> Iterator[tuple[str, Param, int | None]]:
        """Every parameter of a whole model: (global name, its row, its layer's index or None)."""
        here = [row for row in self.params if self.has(row, config)]
        for row in here:
            if row.where != "layer":
                yield row.name, row, None
        for i in range(config.num_layers):
            for row in here:
                if row.where == "layer":
                    yield row.name.format(i=i), row, i

    def has(self, row: Param, config: ModelConfig) -> bool:
        """Whether a model of `config` has the row's parameter."""
        if row.untied and not config.untie_embeddings_and_output_weights:
            return False
        return not row.heads or config.head in row.heads

    def row(self, name: str) -> Param:
        """The table's row for the global parameter `name`.

        >>> families.get("gpt2")().row("layers.7.attention.qkv.weight").tp_dim
        0
        """
        wanted = generic(name)
        return next(row for row in (*self.params, *TRAINED) if row.name == wanted)


def _codec(place: str, partial: bool = False) -> tuple[Param, ...]:
    encoder = Param(name=f"{place}.encoder", shape=("Z", "D"), init="xavier", partial=partial, hf="")
    return encoder, Param(name=f"{place}.decoder", shape=("D", "Z"), init="xavier", hf="")


# Codecs that are trained with a model of any family, where a run puts some (`mcc.models.base.bottleneck`): in place of
# a row-parallel layer's sum, and between layer i and the next one, where a pipeline stage ends.
TRAINED = (
    *_codec("layers.{i}.attention.out.codec", partial=True),
    *_codec("layers.{i}.mlp.down.codec", partial=True),
    *_codec("boundaries.{i}"),
)


def generic(name: str) -> str:
    """A global name as the tables have it, `{i}` for every index.

    >>> generic("layers.7.mlp.up.weight")
    'layers.{i}.mlp.up.weight'
    """
    return ".".join("{i}" if part.isdigit() else part for part in name.split("."))


def sizes(config: ModelConfig, vocab_rows: int | None = None) -> dict[str, int]:
    """What the symbols of a shape stand for; `vocab_rows` is the true vocabulary when left out."""
    return {
        "V": config.vocab_size if vocab_rows is None else vocab_rows,
        "D": config.hidden_size,
        "T": config.positions,
        "T2": config.positions + 2,
        "F": config.ffn_size,
        "S": config.num_tokentypes,
        "C": 1 if config.head == "multiple-choice" else config.num_labels,
        "A": config.num_attention_heads * config.head_dim,
        "QKV": (config.num_attention_heads + 2 * config.query_groups) * config.head_dim,
        "2": 2,
    }


def global_shape(row: Param, config: ModelConfig, vocab_rows: int | None = None) -> tuple[int, ...]:
    """The shape of the whole (unsharded) parameter.

    >>> row = families.get("gpt2")().row("embedding.tokens.weight")
    >>> global_shape(row, ModelConfig(vocab_size=1000, hidden_size=64), vocab_rows=1024)
    (1024, 64)
    """
    resolved = sizes(config, vocab_rows)
    return tuple(resolved[symbol] for symbol in row.shape)


def count_parameters(config: ModelConfig) -> int:
    """Numbers in a model of `config`, without the vocabulary's padding; tied weights count once.

    >>> count_parameters(ModelConfig(num_layers=12, hidden_size=768, num_attention_heads=12, seq_length=1024,
    ...                              vocab_size=50257))
    124439808
    """
    import math

    table = families.get(config.family)().table(config)
    return sum(math.prod(global_shape(row, config)) for _, row, _ in table)


families: Kind[Family] = Kind("model family", "mcc.models", Family)
