"""The metrics of classification tasks, from their formulas.

M samples; t_i the labels, p_i the predicted classes or numbers. tp, tn, fp, fn count the pairs (p, t) = (1, 1), (0, 0),
(1, 0), (0, 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcc.core.errors import unknown

Array = NDArray[Any]


def accuracy(predicted: Array, labels: Array) -> float:
    """The share of i with p_i = t_i."""
    return float(np.mean(predicted == labels))


def f1(predicted: Array, labels: Array) -> float:
    """2 tp / (2 tp + fp + fn) of class 1; 0 where there is neither."""
    tp, _, fp, fn = _counts(predicted, labels)
    return 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 0.0


def matthews(predicted: Array, labels: Array) -> float:
    """Matthews' correlation (1975): (tp tn - fp fn) / sqrt((tp+fp)(tp+fn)(tn+fp)(tn+fn)); 0 where a factor is 0."""
    tp, tn, fp, fn = _counts(predicted, labels)
    below = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return (tp * tn - fp * fn) / math.sqrt(below) if below else 0.0


def pearson(predicted: Array, labels: Array) -> float:
    """cov(p, t) / (sd(p) sd(t)); 0 where one is constant."""
    p, t = (np.asarray(values, dtype=np.float64) - np.mean(values, dtype=np.float64) for values in (predicted, labels))
    below = math.sqrt(float(p @ p) * float(t @ t))
    return float(p @ t) / below if below else 0.0


def spearman(predicted: Array, labels: Array) -> float:
    """Pearson's correlation of the ranks; equal values share the mean of their ranks."""
    return pearson(_ranks(predicted), _ranks(labels))


METRICS: dict[str, Callable[[Array, Array], float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
}


def score(names: Sequence[str], outputs: Array, labels: Array) -> dict[str, float]:
    """Metrics by name. outputs[M, P] are logits of P classes, or numbers[M, 1] where labels are numbers.

    Raises:
        UsageError: there is no such metric.
    """
    for name in names:
        if name not in METRICS:
            raise unknown("metric", name, METRICS)
    predicted = outputs[:, 0] if np.issubdtype(labels.dtype, np.floating) else outputs.argmax(-1)
    return {name: METRICS[name](predicted, labels) for name in names}


def _counts(predicted: Array, labels: Array) -> tuple[int, int, int, int]:
    p, t = predicted == 1, labels == 1
    return int((p & t).sum()), int((~p & ~t).sum()), int((p & ~t).sum()), int((~p & t).sum())


def _ranks(values: Array) -> Array:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((last - counts + 1 + last) / 2)[place]
