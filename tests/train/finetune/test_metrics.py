"""Metrics by hand, and against scikit-learn and SciPy where they are installed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcc.core.errors import UsageError
from mcc.train.finetune.metrics import METRICS, accuracy, f1, matthews, pearson, score, spearman

P, T = np.array([1, 1, 0, 0, 1, 0]), np.array([1, 0, 0, 1, 1, 0])


def test_by_hand() -> None:
    # tp 2, tn 2, fp 1, fn 1
    assert accuracy(P, T) == pytest.approx(4 / 6)
    assert f1(P, T) == pytest.approx(4 / 6)
    assert matthews(P, T) == pytest.approx((4 - 1) / 9)
    assert pearson(np.array([1.0, 2, 3]), np.array([2.0, 4, 6])) == pytest.approx(1)
    assert spearman(np.array([1.0, 10, 100]), np.array([3.0, 2, 1])) == pytest.approx(-1)
    # ranks 1.5, 1.5, 3 against 1, 2, 3
    assert spearman(np.array([5, 5, 9]), np.array([1, 2, 3])) == pytest.approx(1.5 / math.sqrt(1.5 * 2))


def test_nothing_to_divide_by() -> None:
    zeros, ones = np.zeros(4, dtype=int), np.ones(4, dtype=int)
    assert f1(zeros, zeros) == matthews(zeros, ones) == pearson(zeros, ones) == 0.0


@pytest.mark.filterwarnings("ignore:A single label")
@settings(deadline=None, max_examples=50)
@given(pairs=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=2, max_size=40))
def test_classes_as_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    theirs = pytest.importorskip("sklearn.metrics")
    predicted, labels = (np.array(values) for values in zip(*pairs, strict=True))
    assert accuracy(predicted, labels) == pytest.approx(theirs.accuracy_score(labels, predicted))
    assert f1(predicted, labels) == pytest.approx(theirs.f1_score(labels, predicted, zero_division=0))
    assert matthews(predicted, labels) == pytest.approx(theirs.matthews_corrcoef(labels, predicted))


@settings(deadline=None, max_examples=50)
@given(pairs=st.lists(st.tuples(st.integers(-9, 9), st.integers(0, 5)), min_size=3, max_size=40))
def test_numbers_as_scipy(pairs: list[tuple[int, int]]) -> None:
    theirs = pytest.importorskip("scipy.stats")
    predicted, labels = (np.array(values, dtype=float) for values in zip(*pairs, strict=True))
    if predicted.std() == 0 or labels.std() == 0:
        return
    assert pearson(predicted, labels) == pytest.approx(theirs.pearsonr(predicted, labels)[0])
    assert spearman(predicted, labels) == pytest.approx(theirs.spearmanr(predicted, labels)[0])


def test_score_of_outputs() -> None:
    logits = np.array([[0.0, 2.0, 1.0], [3.0, 2.0, 1.0]], dtype=np.float32)
    assert score(["accuracy"], logits, np.array([1, 2])) == {"accuracy": 0.5}
    numbers = score(["pearson", "spearman"], np.array([[1.0], [2.0], [4.0]]), np.array([0.5, 1.0, 2.0]))
    assert numbers == pytest.approx({"pearson": 1.0, "spearman": 1.0})
    with pytest.raises(UsageError, match="unknown metric 'f2'"):
        score(["f2"], logits, np.array([1, 2]))
    assert set(METRICS) == {"accuracy", "f1", "matthews", "pearson", "spearman"}
