"""Blends of token files against Megatron-LM's rule."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcc.core.errors import UsageError
from mcc.data.training import blends
from mcc.data.training.blends import Blend, Blended, build_blend


@settings(max_examples=60, deadline=None)
@given(raw=st.lists(st.floats(0.01, 100), min_size=1, max_size=20), count=st.integers(1, 400))
def test_the_rule(raw: list[float], count: int) -> None:
    blend = Blend.parse(" ".join(f"{weight!r} d{i}" for i, weight in enumerate(raw)))
    files, numbers = build_blend(blend.weights, count)
    taken = [0] * len(raw)
    for i in range(count):
        behind = [weight * max(i, 1) - n for weight, n in zip(blend.weights, taken, strict=True)]
        wanted = behind.index(max(behind))
        assert (files[i], numbers[i]) == (wanted, taken[wanted])
        taken[wanted] += 1
    # However short the run: what each file is asked for is enough.
    assert all(n <= share for n, share in zip(taken, blend.shares(count), strict=True))
    assert all(abs(n - weight * count) < len(raw) for n, weight in zip(taken, blend.weights, strict=True))


def test_few_and_many_files_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = Blend.parse("1 a 2 b 3 c 1 d").weights
    few = build_blend(weights, 1000)
    monkeypatch.setattr(blends, "_FEW", 0)
    many = build_blend(weights, 1000)
    assert all(np.array_equal(a, b) for a, b in zip(few, many, strict=True))
    assert np.bincount(few[0], minlength=4).tolist() == [143, 286, 428, 143]
    assert build_blend([1 / 300] * 300, 300)[0].tolist() == list(range(300))


def test_samples_of_a_blend() -> None:
    blended: Blended[str] = Blended([["a0", "a1", "a2"], ["b0", "b1"]], *build_blend([0.6, 0.4], 5))
    assert [blended[i] for i in range(len(blended))] == ["a0", "b0", "a1", "b1", "a2"]


def test_parse(tmp_path: Path) -> None:
    assert Blend.parse("data/wiki") == Blend(("data/wiki",), (1.0,))
    assert Blend.parse("2 'a b' 6 c") == Blend(("a b", "c"), (0.25, 0.75))
    spaced = tmp_path / "a b"
    Path(f"{spaced}.idx").touch()
    assert Blend.parse(str(spaced)).prefixes == (str(spaced),)
    blend = Blend.parse("2 'a b' 6 c")
    assert Blend.parse(str(blend)) == blend
    assert blend.shares(10) == [3, 8] and Blend.parse("x").shares(10) == [10]


@pytest.mark.parametrize("text", ["", "a b", "1 a 2", "0 a 1 b", "-1 a 1 b", "nan a 1 b", "inf a 1 b", "1 'a"])
def test_bad_blends(text: str) -> None:
    with pytest.raises(UsageError, match="data path"):
        Blend.parse(text)
