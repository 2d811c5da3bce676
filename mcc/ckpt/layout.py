"""How a whole model is cut into tensor-parallel shards and pipeline stages.

T tensor-parallel ranks   P pipeline stages
"""

from __future__ import annotations

from torch import Tensor

from mcc.core.errors import UsageError
from mcc.models.base.config import ModelConfig
from mcc.models.base.family import Param, families, global_shape


def check_layout(config: ModelConfig, tp: int, pp: int) -> None:
    """Refuse a layout that this model cannot be cut in.

    Raises:
        UsageError: tp does not divide the heads or the MLP, or there are more stages than layers.
    """
    if config.num_attention_heads % tp:
        raise UsageError(
            f"tp = {tp} does not divide num_attention_heads = {config.num_attention_heads}",
            "every tensor-parallel rank holds whole heads",
        )
    if config.ffn_size % tp:
        raise UsageError(f"tp = {tp} does not divide ffn_hidden_size = {config.ffn_size}")
    if pp > config.num_layers:
        raise UsageError(f"pp = {pp} is more than num_layers = {config.num_layers}", "every stage holds a layer")


def padded_shapes(config: ModelConfig, vocab_rows: int) -> dict[str, tuple[int, ...]]:
    """Global name -> whole shape, with `vocab_rows` rows in the embedding."""
    family = families.get(config.family)()
    return {name: global_shape(row, config, vocab_rows) for name, row, _ in family.table(config)}


def shard(tensor: Tensor, row: Param, tp: int, rank: int) -> Tensor:
    """The part of a whole tensor that tensor-parallel rank `rank` of `tp` holds (a view)."""
    if row.tp_dim is None or tp == 1:
        return tensor
    size = tensor.shape[row.tp_dim] // tp
    return tensor.narrow(row.tp_dim, rank * size, size)


def even_stages(config: ModelConfig, pp: int) -> list[range]:
    """The layers of each stage, the same number each, as Megatron-LM cuts.

    Raises:
        UsageError: pp does not divide the layers.

    >>> even_stages(ModelConfig(num_layers=4), 2)
    [range(0, 2), range(2, 4)]
    """
    if config.num_layers % pp:
        raise UsageError(
            f"pp = {pp} does not divide num_layers = {config.num_layers}",
            "Megatron-LM's stages hold the same number of layers each",
        )
    per = config.num_layers // pp
    return [range(stage * per, (stage + 1) * per) for stage in range(pp)]
