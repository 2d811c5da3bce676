"""Shuffling: a permutation that the seed decides, not the memory."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mcc.core.errors import UsageError
from mcc.data.base.records import ReadConfig
from mcc.data.shuffle import ShuffleConfig, document_keys, shuffle
from tests.data.conftest import Write, read


def test_a_permutation_by_seed(jsonl: Write, tmp_path: Path) -> None:
    records = [{"text": f"text {i}", "id": i} for i in range(500)]
    path = jsonl("in.jsonl", records)
    orders = {}
    for seed, bucket_bytes in ((1, 1 << 20), (1, 1000), (1, 50), (2, 1 << 20)):
        report = shuffle([path], tmp_path / "out.jsonl", ShuffleConfig(seed=seed, bucket_bytes=bucket_bytes))
        shuffled = read(tmp_path / "out.jsonl")
        assert sorted(shuffled, key=lambda record: record["id"]) == records
        assert report.documents_in == report.documents_out == 500
        orders[seed, bucket_bytes] = [record["id"] for record in shuffled]
    assert orders[1, 1 << 20] == orders[1, 1000] == orders[1, 50] != orders[2, 1 << 20]
    assert orders[1, 50] != list(range(500))


def test_every_order_is_as_likely() -> None:
    """Each of the 24 orders of 4 documents comes 100 times of 2,400, standard deviation 9.8."""
    orders = Counter(tuple(np.argsort(document_keys(seed, 3, 1, 4)).tolist()) for seed in range(2400))
    assert len(orders) == 24 and min(orders.values()) > 55 and max(orders.values()) < 145


def test_keys_of_other_blocks_differ() -> None:
    keys = [document_keys(seed, unit, part, 50) for seed in (0, 1) for unit in range(4) for part in range(4)]
    assert len(set(np.concatenate(keys).tolist())) == 32 * 50


def test_the_same_order_with_two_processes_and_small_blocks(jsonl: Write, tmp_path: Path) -> None:
    path = jsonl("in.jsonl", [f"text {i}" for i in range(300)])
    small = ReadConfig(block_bytes=500)
    for workers in (1, 2):
        shuffle([path], tmp_path / f"{workers}.jsonl", ShuffleConfig(bucket_bytes=700, workers=workers, read=small))
    assert (tmp_path / "1.jsonl").read_bytes() == (tmp_path / "2.jsonl").read_bytes()
    assert len(read(tmp_path / "1.jsonl")) == 300


def test_bad_lines_are_set_aside(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(b'{"text": "a"}\r\n{"text": 1}\n\n{"text": "b"}')
    report = shuffle([tmp_path / "in.jsonl"], tmp_path / "out.jsonl")
    assert (report.documents_in, report.documents_out, report.bad_lines) == (2, 2, 1)
    assert sorted((tmp_path / "out.jsonl").read_bytes().splitlines()) == [b'{"text": "a"}', b'{"text": "b"}']
    assert read(tmp_path / "out.rejects.jsonl")[0]["where"].endswith("in.jsonl:2")


def test_nothing_is_left_behind(jsonl: Write, tmp_path: Path) -> None:
    shuffle([jsonl("in.jsonl", ["a", "b"])], tmp_path / "out.jsonl.gz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl.gz"]
    with pytest.raises(UsageError):
        ShuffleConfig(bucket_bytes=0)
