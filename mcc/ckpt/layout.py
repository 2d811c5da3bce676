"""How a whole model is cut into tensor-parallel shards and pipeline stages.

T tensor-parallel ranks   P pipeline stages   V chunks of layers in a stage (virtual stages)
"""

from __future__ import annotations

from mcc.core.errors import UsageError
from mcc.models.base.config import ModelConfig
from mcc.models.base.family import families, global_shape


def check_layout(config: ModelConfig, tp: int, pp: int, vpp: int = 1) -> None:
    """Refuse a layout that this model cannot be cut in.

    Raises:
        UsageError: the family has no such model, tp does not divide the heads, the key/value heads or the MLP, there
            are more stages than layers, or one stage alone has chunks.
    """
    families.get(config.family)().check(config)
    config.require_tp(tp)
    if pp > config.num_layers:
        raise UsageError(f"pp = {pp} is more than num_layers = {config.num_layers}", "every stage holds a layer")
    if vpp > 1 and pp == 1:
        raise UsageError(f"vpp = {vpp} interleaves pipeline stages, and pp = 1 is a single one", "--pp 2 or more")
    if pp * vpp > config.num_layers:
        raise UsageError(
            f"pp = {pp} times vpp = {vpp} is more than num_layers = {config.num_layers}", "every chunk holds a layer"
        )


def padded_shapes(config: ModelConfig, vocab_rows: int) -> dict[str, tuple[int, ...]]:
    """Global name -> whole shape, with `vocab_rows` rows in the embedding."""
    family = families.get(config.family)()
    return {name: global_shape(row, config, vocab_rows) for name, row, _ in family.table(config)}


def even_chunks(config: ModelConfig, pp: int, vpp: int = 1) -> list[list[range]]:
    """The layers of every chunk of every stage, [P][V], the same number each, as Megatron-LM cuts: a token goes through
    chunk 0 of all stages, then chunk 1 of all stages, and so on (Narayanan et al., arXiv 2104.04473, section 2.2).

    Raises:
        UsageError: the chunks do not divide the layers.

    >>> even_chunks(ModelConfig(num_layers=4), 2)
    [[range(0, 2)], [range(2, 4)]]
    >>> even_chunks(ModelConfig(num_layers=4), 2, 2)
    [[range(0, 1), range(2, 3)], [range(1, 2), range(3, 4)]]
    """
    if config.num_layers % (pp * vpp):
        times = f" times vpp = {vpp}" if vpp > 1 else ""
        raise UsageError(
            f"pp = {pp}{times} does not divide num_layers = {config.num_layers}",
            "Megatron-LM's stages hold the same number of layers each",
        )
    per = config.num_layers // (pp * vpp)
    starts = [[(chunk * pp + stage) * per for chunk in range(vpp)] for stage in range(pp)]
    return [[range(start, start + per) for start in chunks] for chunks in starts]
