"""Samples against a slow reference written from Megatron-LM's formulas."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcc.core.errors import MccError, UsageError
from mcc.data.indexed import IndexedDataset, IndexedWriter
from mcc.data.samples import GPTSamples, count_epochs, split_documents


def store(prefix: Path, sizes: list[int]) -> IndexedDataset:
    """Documents of these sizes; every token is different, so that a wrong one shows."""
    with IndexedWriter(prefix, np.int32) as writer:
        start = 0
        for size in sizes:
            writer.add(list(range(start, start + size)))
            start += size
    return IndexedDataset(prefix)


def reference(data: IndexedDataset, documents: list[int], length: int, wanted: int, seed: int) -> list[list[int]]:
    """All samples in visiting order, one token at a time."""
    per_epoch = sum(int(data.sizes[d]) for d in documents)
    epochs, total = 0, 0
    while True:
        epochs += 1
        total += per_epoch
        if (total - 1) // length >= wanted:
            break
    before_last = ((epochs - 1) * per_epoch - 1) // length
    separate = epochs > 1 and wanted - before_last < int(0.80 * ((per_epoch - 1) // length))
    generator = np.random.RandomState(seed)

    def shuffled(values: list[int]) -> list[int]:
        array = np.array(values, dtype=np.int64)
        generator.shuffle(array)
        return array.tolist()

    order = shuffled(documents * (epochs - 1)) + shuffled(documents) if separate else shuffled(documents * epochs)
    stream = [token for d in order for token in data[d].tolist()]
    samples = [stream[i : i + length + 1] for i in range(0, len(stream) - length, length)]
    first = before_last if separate else len(samples)
    visits = shuffled(list(range(first)))
    if separate:
        visits += shuffled(list(range(first, len(samples))))
    return [samples[i] for i in visits]


@settings(max_examples=120, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=12).filter(lambda sizes: sum(sizes) > 1),
    length=st.integers(1, 16),
    wanted=st.integers(1, 60),
    seed=st.integers(0, 2**32 - 1),
)
def test_equals_the_reference(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], length: int, wanted: int, seed: int
) -> None:
    data = store(tmp_path_factory.mktemp("samples") / "d", sizes)
    samples = GPTSamples(data, range(len(sizes)), length, wanted, seed)
    expected = reference(data, list(range(len(sizes))), length, wanted, seed)
    assert len(samples) >= wanted
    assert [sample.tolist() for sample in samples] == expected


def test_both_ways_of_the_last_epoch_are_met(tmp_path: Path) -> None:
    assert count_epochs(1000, 100, 12).separate_last  # 3 of 9 samples of the second epoch
    assert not count_epochs(1000, 100, 18).separate_last
    assert count_epochs(1000, 100, 9).count == 1


def test_a_subset_of_documents(tmp_path: Path) -> None:
    data = store(tmp_path / "d", [5, 7, 9, 11])
    samples = GPTSamples(data, [1, 3], 4, 9, 7)
    assert [sample.tolist() for sample in samples] == reference(data, [1, 3], 4, 9, 7)
    allowed = {*range(5, 12), *range(21, 32)}
    assert all(set(sample.tolist()) <= allowed for sample in samples)


def test_sample_type_and_order_depend_on_the_seed_only(tmp_path: Path) -> None:
    data = store(tmp_path / "d", [50, 60, 70])
    one, same, other = (GPTSamples(data, range(3), 10, 17, seed) for seed in (1, 1, 2))
    assert one[0].dtype == np.int64 and one[0].shape == (11,)
    assert [s.tolist() for s in one] == [s.tolist() for s in same] != [s.tolist() for s in other]


def test_no_tokens(tmp_path: Path) -> None:
    data = store(tmp_path / "d", [0, 0, 5])
    with pytest.raises(MccError, match="without tokens"):
        GPTSamples(data, range(2), 4, 1)
    with pytest.raises(MccError, match="0 documents"):
        GPTSamples(data, range(0), 4, 1)


@pytest.mark.parametrize(
    ("count", "split", "ends"),
    [
        (1000, "949,50,1", [949, 999, 1000]),
        (100, "949,50,1", [95, 100, 100]),
        (3, "1,1,1", [1, 2, 3]),
        (10, "1", [10, 10, 10]),
        (0, "949,50,1", [0, 0, 0]),
        # 1.5 + 1.5 + 0 round to 2 + 2: the surplus comes off all ends but the first.
        (3, "1,1,0", [1, 3, 3]),
    ],
)
def test_split(count: int, split: str, ends: list[int]) -> None:
    assert [part.stop for part in split_documents(count, split)] == ends


@given(count=st.integers(0, 5000), weights=st.lists(st.integers(0, 1000), min_size=1, max_size=3).filter(sum))
def test_split_covers_every_document_once(count: int, weights: list[int]) -> None:
    parts = split_documents(count, ",".join(map(str, weights)))
    assert [i for part in parts for i in part] == list(range(count))


@pytest.mark.parametrize("split", ["", "a,b", "0,0,0", "1,-1,1", "1,2,3,4", "nan"])
def test_bad_split(split: str) -> None:
    with pytest.raises(UsageError, match="split"):
        split_documents(10, split)
