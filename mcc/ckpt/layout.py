"""How a whole model is cut into tensor-parallel shards and pipeline stages.

T tensor-parallel ranks   P pipeline stages
"""

from __future__ import annotations

from mcc.core.errors import UsageError
from mcc.models.base.config import ModelConfig
from mcc.models.base.family import families, global_shape


def check_layout(config: ModelConfig, tp: int, pp: int) -> None:
    """Refuse a layout that this model cannot be cut in.

    Raises:
        UsageError: the family has no such model, tp does not divide the heads, the key/value heads or the MLP, or there
            are more stages than layers.
    """
    families.get(config.family)().check(config)
    config.require_tp(tp)
    if pp > config.num_layers:
        raise UsageError(f"pp = {pp} is more than num_layers = {config.num_layers}", "every stage holds a layer")


def padded_shapes(config: ModelConfig, vocab_rows: int) -> dict[str, tuple[int, ...]]:
    """Global name -> whole shape, with `vocab_rows` rows in the embedding."""
    family = families.get(config.family)()
    return {name: global_shape(row, config, vocab_rows) for name, row, _ in family.table(config)}


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
