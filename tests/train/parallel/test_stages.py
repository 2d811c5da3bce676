"""The cut of a model into pipeline stages."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcc.core.errors import UsageError
from mcc.models.base.config import ModelConfig
from mcc.train.parallel.pipeline import SCHEDULES, check_schedule
from mcc.train.parallel.stages import balance, cut


def sizes(layers: int, pp: int, **more: object) -> list[int]:
    return [len(stage) for stage in cut(ModelConfig(num_layers=layers, vocab_size=1000), pp, **more).layers]  # type: ignore[arg-type]


def test_even_stages_take_what_is_left_over_first() -> None:
    assert sizes(7, 3) == [3, 2, 2] and sizes(8, 2, vpp=2) == [2, 2, 2, 2]


def test_given_stages() -> None:
    assert sizes(24, 4, shares="6,6,7,5") == [6, 6, 7, 5]
    assert sizes(4, 2, shares="4,0") == [4, 0]


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ("6,6", "names 2 stages, but pp"),
        ("6,6,6", "has 18 layers, but num_layers = 24"),
        ("6,x,6", "is not a list"),
        ("-1,24,1", "is not a list"),
    ],
)
def test_wrong_stages(shares: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        sizes(24, 3, shares=shares)


def test_too_few_layers() -> None:
    with pytest.raises(UsageError, match=r"num_layers = 3 is fewer than pp\*vpp = 2\*2 = 4"):
        sizes(3, 2, vpp=2)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=7), st.integers(0, 9), st.integers(0, 9), st.integers(1, 4))
def test_balance_is_the_best_of_all_cuts(layers: list[int], first: int, last: int, count: int) -> None:
    count = min(count, len(layers))

    def worst(cuts: tuple[int, ...]) -> int:
        edges = [0, *cuts, len(layers)]
        parts = [sum(layers[a:b]) for a, b in itertools.pairwise(edges)]
        parts[0] += first
        parts[-1] += last
        return max(parts)

    numbers = balance([first, *layers, last], count)
    assert sum(numbers) == len(layers) and min(numbers) >= 1
    found = worst(tuple(itertools.accumulate(numbers[:-1])))
    assert found == min(worst(cuts) for cuts in itertools.combinations(range(1, len(layers)), count - 1))


def test_auto_counts_the_output_layer() -> None:
    config = ModelConfig(num_layers=12, hidden_size=768, num_attention_heads=12, vocab_size=50257, seq_length=1024)
    found = [len(stage) for stage in cut(config, 4, shares="auto").layers]
    assert found[-1] < min(found[:-1])  # the output layer costs as much as five layers


@pytest.mark.parametrize(("v", "held"), [(False, [[0, 3], [1, 4], [2, 5]]), (True, [[0, 5], [1, 4], [2, 3]])])
def test_places(v: bool, held: list[list[int]]) -> None:
    stages = cut(ModelConfig(num_layers=6), 3, 2, v)
    assert [stages.held_by(rank) for rank in range(3)] == held
    assert stages.ends == ((0,) if v else (0, 2))
    assert list(itertools.chain(*stages.layers)) == list(range(6))


def test_schedules_refuse_with_the_numbers() -> None:
    refused = [
        ("1f1b", 1, 3, 4, "needs at least pp = 4 micro-batches"),
        ("1f1b", 2, 7, 2, "rounds of pp = 2 micro-batches, but there are 7"),
        ("zero-bubble", 1, 7, 2, "rounds of pp = 2"),
        ("zbv", 1, 8, 2, "has 2 stages a rank, not vpp = 1"),
        ("dualpipev", 2, 3, 2, r"at least pp\*vpp = 4"),
        ("1f1b", 2, 8, 1, "vpp = 2 needs pipeline stages on several ranks"),
    ]
    for schedule, vpp, microbatches, pp, message in refused:
        with pytest.raises(UsageError, match=message):
            check_schedule(schedule, vpp, microbatches, pp)
    for schedule in SCHEDULES:
        check_schedule(schedule, 2 if SCHEDULES[schedule].v else 1, 8, 2)
