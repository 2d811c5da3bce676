"""Numbers about token files."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from mcc.core.errors import MccError
from mcc.data import statistics
from mcc.data.indexed import IndexedDataset, IndexedWriter
from mcc.data.statistics import length_histogram, token_counts, unigram_entropy


def store(prefix: Path, documents: list[list[int]]) -> IndexedDataset:
    with IndexedWriter(prefix, np.uint16) as writer:
        for tokens in documents:
            writer.add(tokens)
    return IndexedDataset(prefix)


def test_entropy(tmp_path: Path) -> None:
    data = store(tmp_path / "d", [[0, 1, 2, 3], [], [3, 2, 1, 0], [7]])
    assert unigram_entropy(data, range(3)) == pytest.approx(math.log(4))
    assert unigram_entropy(data, [3]) == 0
    p = [2 / 9] * 4 + [1 / 9]
    assert unigram_entropy(data) == pytest.approx(-sum(x * math.log(x) for x in p))
    with pytest.raises(MccError, match="no tokens"):
        unigram_entropy(data, [1])


def test_counts_over_several_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "_CHUNK_SEQUENCES", 2)
    data = store(tmp_path / "d", [[5], [1, 1], [9], [], [2], []])
    assert token_counts(data).tolist() == [0, 2, 1, 0, 0, 1, 0, 0, 0, 1]


def test_histogram(tmp_path: Path) -> None:
    data = store(tmp_path / "d", [[1] * n for n in (2, 3, 4, 7, 8, 2, 9)])
    assert length_histogram(data) == [(2, 4, 3), (4, 8, 2), (8, 16, 2)]
    assert length_histogram(store(tmp_path / "e", [[], [1]])) == [(0, 1, 1), (1, 2, 1)]
    assert length_histogram(store(tmp_path / "f", [])) == []
