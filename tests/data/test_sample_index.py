"""Sample indices kept beside the data: the same samples, and only for the very same files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mcc.core.errors import MccError, UsageError
from mcc.data.indexed import IndexedDataset, IndexedWriter
from mcc.data.sample_index import IndexConfig, cached_samples, folder_of, index, load
from mcc.data.samples import GPTSamples, SampleKey, split_documents


def write(prefix: Path, seed: int = 0) -> IndexedDataset:
    generator = np.random.default_rng(seed)
    with IndexedWriter(prefix, np.uint16) as writer:
        for size in generator.integers(1, 40, size=60):
            writer.add(generator.integers(0, 1000, size=size).tolist())
    return IndexedDataset(prefix)


def test_training_takes_what_was_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write(tmp_path / "d")
    config = IndexConfig(seq_length=8, train_iters=50, eval_iters=2, global_batch_size=4, seed=7, split="80,20")
    report = index(tmp_path / "d", config)
    train, valid, _ = split_documents(60, "80,20")
    assert [(part.part, part.documents) for part in report.parts] == [("train", 48), ("valid", 12)]
    for documents, wanted in ((train, 200), (valid, 8)):
        expected = GPTSamples(data, documents, 8, wanted, 7)
        monkeypatch.setattr("mcc.data.samples.build_indices", None)  # nothing is built any more
        found = cached_samples(data, documents, 8, wanted, 7)
        monkeypatch.undo()
        assert isinstance(found.shuffle_idx, np.memmap) and len(found) == len(expected)
        assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
    # Another setting is built anew.
    assert not isinstance(cached_samples(data, train, 8, 201, 7).shuffle_idx, np.memmap)


def test_other_files_of_the_same_name_are_noticed(tmp_path: Path) -> None:
    data = write(tmp_path / "d")
    index(tmp_path / "d", IndexConfig(seq_length=8, epochs=2, all_documents=True, eval_iters=0))
    tokens = data.tokens
    key = SampleKey(0, 60, 8, (2 * tokens - 1) // 8, 1234)
    assert load(data, key) is not None
    (folder_of(data.prefix, key) / "sample_idx.npy").write_bytes(b"cut")
    assert load(data, key) is None
    index(tmp_path / "d", IndexConfig(seq_length=8, epochs=2, all_documents=True))
    assert load(write(tmp_path / "d", seed=1), key) is None


def test_documents_without_tokens(tmp_path: Path) -> None:
    with IndexedWriter(tmp_path / "d", np.uint16) as writer:
        for _ in range(5):
            writer.add([1, 2, 3, 4])
            writer.end_document()
    # Sequences are counted, as Megatron-LM does: 5, not 10.
    report = index(tmp_path / "d", IndexConfig(seq_length=4, epochs=1, split="1", eval_iters=0))
    assert report.parts[0].documents == 5


def test_settings_that_make_no_sense(tmp_path: Path) -> None:
    for values in ({}, {"train_iters": 1, "epochs": 1}):
        with pytest.raises(UsageError, match="how many samples"):
            IndexConfig(**values)
    with pytest.raises(UsageError, match="seq_length = 0"):
        IndexConfig(seq_length=0, epochs=1)
    write(tmp_path / "d")
    with pytest.raises(MccError, match="too few for one sample"):
        index(tmp_path / "d", IndexConfig(seq_length=10_000, epochs=1))
