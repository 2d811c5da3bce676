"""Which layers each pipeline stage has, and which rank holds it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mcc.core.errors import UsageError
from mcc.models.base.config import ModelConfig


@dataclass(frozen=True)
class Stages:
    """The cut of a model into pipeline stages.

    Attributes:
        layers: the layers of each stage, in order of the model.
        pp: pipeline ranks; a rank holds len(layers) / pp stages.
        v: the stages go down the ranks and up again (zero-bubble V and DualPipeV: rank 0 has the first and the last
            one) rather than round and round (interleaved).
    """

    layers: tuple[range, ...]
    pp: int
    v: bool = False

    def __len__(self) -> int:
        return len(self.layers)

    @property
    def last(self) -> int:
        """The index of the last stage."""
        return len(self.layers) - 1

    def rank_of(self, stage: int) -> int:
        """The pipeline rank that holds `stage`."""
        turn, place = divmod(stage, self.pp)
        return self.pp - 1 - place if self.v and turn % 2 else place

    @property
    def sent(self) -> tuple[int, ...]:
        """The boundaries that messages go over, by the stage before: its neighbours are on different ranks."""
        return tuple(before for before in range(self.last) if self.rank_of(before) != self.rank_of(before + 1))

    def held_by(self, pp_rank: int) -> list[int]:
        """The stages of a pipeline rank, in order."""
        return [stage for stage in range(len(self)) if self.rank_of(stage) == pp_rank]

    @property
    def ends(self) -> tuple[int, ...]:
        """The pipeline ranks that hold the first or the last stage."""
        return tuple(sorted({self.rank_of(0), self.rank_of(self.last)}))


def cut(config: ModelConfig, pp: int, vpp: int = 1, v: bool = False, shares: str | None = None) -> Stages:
    """Cut a model into pp x vpp stages.

    Args:
        config: the model.
        pp: pipeline ranks. vpp: stages a rank.
        v: see `Stages`.
        shares: layers of each stage, "6,6,7,5"; "auto" so that the most costly stage costs least, embedding and
            output layer counted; None: even, the first stages taking what is left over.

    Raises:
        UsageError: the shares do not fit the model, or a stage would have no layer.

    >>> [len(layers) for layers in cut(ModelConfig(num_layers=7), 2).layers]
    [4, 3]
    """
    count = pp * vpp
    if shares and shares != "auto":
        numbers = _numbers(shares)
        if len(numbers) != count:
            raise UsageError(f"--stages {shares} names {len(numbers)} stages, but pp*vpp = {pp}*{vpp} = {count}")
        if sum(numbers) != config.num_layers:
            raise UsageError(f"--stages {shares} has {sum(numbers)} layers, but num_layers = {config.num_layers}")
    elif config.num_layers < count:
        raise UsageError(
            f"num_layers = {config.num_layers} is fewer than pp*vpp = {pp}*{vpp} = {count} stages",
            "every stage needs a layer; --stages can leave the last one empty",
        )
    elif shares == "auto":
        numbers = balance(_costs(config), count)
    else:
        share, rest = divmod(config.num_layers, count)
        numbers = [share + (stage < rest) for stage in range(count)]
    starts = [sum(numbers[:stage]) for stage in range(count)]
    return Stages(tuple(range(start, start + n) for start, n in zip(starts, numbers, strict=True)), pp, v)


def balance(costs: Sequence[float], count: int) -> list[int]:
    """Layers of each of `count` stages, so that the most costly stage costs least.

    Args:
        costs: of what comes before the first layer, of each layer, and of what comes after the last.
        count: stages; each gets a layer.

    >>> balance([0, 1, 1, 1, 1, 1, 1, 2], 2)
    [4, 2]
    """
    first, *layers, last = costs
    n = len(layers)
    sums = [0.0]
    for cost in layers:
        sums.append(sums[-1] + cost)

    def cost_of(start: int, end: int) -> float:
        return sums[end] - sums[start] + (first if start == 0 else 0.0) + (last if end == n else 0.0)

    # best[end]: least cost of the layers before `end` in so many stages, with the starts of these stages.
    best: dict[int, tuple[float, list[int]]] = {end: (cost_of(0, end), [0]) for end in range(1, n + 1)}
    for stage in range(1, count):
        best = {
            end: min(
                (max(best[start][0], cost_of(start, end)), [*best[start][1], start]) for start in range(stage, end)
            )
            for end in range(stage + 1, n + 1)
        }
    starts = best[n][1]
    return [end - start for start, end in zip(starts, [*starts[1:], n], strict=True)]


def _costs(config: ModelConfig) -> list[float]:
    """Multiplications a token: a layer's matrices and attention, none for the embedding, the output layer's."""
    D, F, T = config.hidden_size, config.ffn_size, config.seq_length
    layer = 4.0 * D * D + 2 * D * F + T * D
    return [0.0, *[layer] * config.num_layers, float(config.vocab_size) * D]


def _numbers(shares: str) -> list[int]:
    try:
        numbers = [int(part) for part in shares.split(",")]
    except ValueError:
        numbers = [-1]
    if min(numbers) < 0:
        raise UsageError(f"--stages {shares!r} is not a list of layers a stage", "for example 6,6,7,5, or auto")
    return numbers
