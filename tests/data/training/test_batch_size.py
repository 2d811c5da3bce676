"""Batch-size ramp-up: the closed form against stepping through the formula."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcc.core.errors import UsageError
from mcc.data.training.batch_size import BatchSizes


def _formula(consumed: int, start: int, increment: int, length: int, full: int) -> int:
    """Megatron-LM's: one increment every `length / rises` samples, all of them after `length`."""
    rises = (full - start) // increment
    if consumed > length or not rises:
        return full
    return min(full, start + int(consumed * rises / length + 1e-12) * increment)


@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 6), st.integers(1, 400))
def test_every_step_takes_what_the_formula_says(start, increment, rises, length):
    full = start + rises * increment
    sizes = BatchSizes(full, (start, increment, length))
    consumed = 0
    for step in range(150):
        at = sizes.at(step)
        assert (at.step, at.samples, at.batch) == (step, consumed, _formula(consumed, start, increment, length, full))
        assert sizes.steps(consumed) == step
        consumed += at.batch
        assert sizes.steps(consumed) == step + 1
        if at.batch > 1:
            assert sizes.steps(consumed - 1) == step + 1


def test_without_ramp_up_every_step_is_full():
    sizes = BatchSizes(8)
    assert [sizes.at(step).batch for step in (0, 5)] == [8, 8]
    assert sizes.at(5).samples == 40
    assert (sizes.steps(0), sizes.steps(40), sizes.steps(41)) == (0, 5, 6)


@pytest.mark.parametrize("ramp", [(0, 2, 9), (3, 2, 9), (2, 0, 9), (10, 2, 9), (2, 2, 0)])
def test_a_ramp_that_misses_the_full_batch_is_refused(ramp):
    with pytest.raises(UsageError, match="does not lead to global_batch_size = 8"):
        BatchSizes(8, ramp)


def test_sizes_that_do_not_divide_are_refused_with_the_numbers():
    BatchSizes(16, (4, 4, 100)).check(2, 2)
    with pytest.raises(UsageError, match=r"a batch = 6 is not a multiple of micro_batch_size\*dp = 2\*2 = 4"):
        BatchSizes(16, (4, 2, 100)).check(2, 2)
    with pytest.raises(UsageError, match="global_batch_size = 9 is not a multiple"):
        BatchSizes(9).check(2, 2)
