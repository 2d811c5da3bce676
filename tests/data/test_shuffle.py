"""Shuffling: a permutation that the seed decides, not the memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcc.core.errors import UsageError
from mcc.data.shuffle import ShuffleConfig, shuffle
from tests.data.conftest import Write, read


def test_a_permutation_by_seed(jsonl: Write, tmp_path: Path) -> None:
    records = [{"text": f"text {i}", "id": i} for i in range(500)]
    path = jsonl("in.jsonl", records)
    orders = {}
    for seed, bucket_bytes in ((1, 1 << 20), (1, 100), (1, 1), (2, 1 << 20)):
        report = shuffle([path], tmp_path / "out.jsonl", ShuffleConfig(seed=seed, bucket_bytes=bucket_bytes))
        shuffled = read(tmp_path / "out.jsonl")
        assert sorted(shuffled, key=lambda record: record["id"]) == records
        assert report.documents_in == report.documents_out == 500
        orders[seed, bucket_bytes] = [record["id"] for record in shuffled]
    assert orders[1, 1 << 20] == orders[1, 100] == orders[1, 1] != orders[2, 1 << 20]
    assert orders[1, 1] != list(range(500))


def test_every_place_is_as_likely(jsonl: Write, tmp_path: Path) -> None:
    """The first document of 4 comes first in a quarter of 400 orders: 100, standard deviation 8.7."""
    path = jsonl("in.jsonl", ["a", "b", "c", "d"])
    first = 0
    for seed in range(400):
        shuffle([path], tmp_path / "out.jsonl", ShuffleConfig(seed=seed))
        first += read(tmp_path / "out.jsonl")[0]["text"] == "a"
    assert 60 < first < 140


def test_nothing_is_left_behind(jsonl: Write, tmp_path: Path) -> None:
    shuffle([jsonl("in.jsonl", ["a", "b"])], tmp_path / "out.jsonl.gz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl.gz"]
    with pytest.raises(UsageError):
        ShuffleConfig(bucket_bytes=0)
