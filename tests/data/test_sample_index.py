"""Sample indices kept beside the data: the same samples, built once, and only for the very same files."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcc.core.errors import MccError, UsageError
from mcc.core.events import Silent
from mcc.data.indexed import IndexedDataset, IndexedWriter
from mcc.data.sample_index import IndexConfig, index
from mcc.data.samples import GPTSamples, split_documents
from mcc.data.training.blends import Blend
from mcc.data.training.config import MaskConfig
from mcc.data.training.open import Wanted, open_bert, open_fixed, open_gpt

BUILDERS = ("build_indices", "build_pairs", "build_windows", "build_blend")


def write(prefix: Path, seed: int = 0, documents: int = 60) -> IndexedDataset:
    generator = np.random.default_rng(seed)
    with IndexedWriter(prefix, np.uint16) as writer:
        for size in generator.integers(1, 40, size=documents):
            writer.add(generator.integers(0, 1000, size=size).tolist())
    return IndexedDataset(prefix)


def sentences(prefix: Path) -> IndexedDataset:
    generator = np.random.default_rng(1)
    with IndexedWriter(prefix, np.uint16) as writer:
        for _ in range(30):
            for size in generator.integers(1, 9, size=5):
                writer.add([7] * int(size), end_document=False)
            writer.end_document()
    return IndexedDataset(prefix)


def wanted(prefix: Path | str, **values: Any) -> Wanted:
    return Wanted(**{"blend": Blend.parse(str(prefix)), "seq_length": 8, "num_samples": 200, "seed": 7, **values})


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in BUILDERS:
        monkeypatch.setattr(f"mcc.data.training.open.{name}", None)


def test_training_takes_what_was_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write(tmp_path / "d")
    config = IndexConfig(seq_length=8, train_iters=50, eval_iters=2, global_batch_size=4, seed=7, split="80,20")
    report = index(tmp_path / "d", config)
    train, valid, _ = split_documents(60, "80,20")
    assert [(part.part, part.documents) for part in report.parts] == [("train", 48), ("valid", 12)]
    forbid(monkeypatch)
    for part, documents, count in (("train", train, 200), ("valid", valid, 8)):
        expected = GPTSamples(data, documents, 8, count, 7)
        found = open_gpt(wanted(data.prefix, part=part, num_samples=count, split="80,20"))
        assert found is not None and isinstance(found.files[0].samples.shuffle_idx, np.memmap)
        assert len(found.samples) == len(expected)
        assert all(np.array_equal(found.samples[i], expected[i]) for i in range(len(expected)))
    with pytest.raises(TypeError):  # another setting would be built
        open_gpt(wanted(data.prefix, num_samples=201, split="80,20"))


def test_fixed_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write(tmp_path / "d")
    expected = open_fixed(wanted(data.prefix, split="80,20", cache=str(tmp_path / "elsewhere")))
    config = IndexConfig(samples="fixed", seq_length=8, eval_iters=2, global_batch_size=4, seed=7, split="80,20")
    train, valid = index(tmp_path / "d", config).parts
    assert expected is not None and train.samples == len(expected.samples) and train.epochs is None
    assert valid.samples >= 8 and valid.epochs is not None
    forbid(monkeypatch)
    found = open_fixed(wanted(data.prefix, split="80,20"))
    assert found is not None and open_gpt(wanted(data.prefix, part="valid", num_samples=8, split="80,20")) is not None
    assert all(np.array_equal(found.samples[i], expected.samples[i]) for i in range(train.samples))
    with pytest.raises(UsageError, match="masked anew"):
        IndexConfig(samples="fixed", kind="bert")
    with pytest.raises(UsageError, match="however many"):
        IndexConfig(samples="fixed", seq_length=8, epochs=2)
    with pytest.raises(UsageError, match="how many samples"):
        IndexConfig()


def test_a_blend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = write(tmp_path / "a"), write(tmp_path / "b", seed=1)
    blend = f"3 {first.prefix} 1 {second.prefix}"
    config = IndexConfig(seq_length=8, train_iters=50, eval_iters=0, global_batch_size=4, seed=7, split="1")
    report = index(blend, config)
    assert [(part.documents, part.samples >= n) for part, n in zip(report.parts, (151, 51), strict=False)] == [
        (60, True),
        (60, True),
    ]
    assert report.parts[2].samples == 200
    forbid(monkeypatch)
    opened = open_gpt(wanted(blend, split="1"))
    alone = [GPTSamples(d, range(60), 8, n, 7) for d, n in ((first, 151), (second, 51))]
    assert opened is not None
    # 3 to 1, by hand: whoever is further behind, and the first of equals (at samples 4 and 8).
    taken = [0, 0]
    for i, file in enumerate([0, 1, 0, 0, 0, 1, 0, 0, 0, 1]):
        assert np.array_equal(opened.samples[i], alone[file][taken[file]])
        taken[file] += 1
    with pytest.raises(UsageError, match="epochs of their own"):
        index(blend, IndexConfig(epochs=1))


def test_held_out_documents_of_a_part_of_a_blend(tmp_path: Path) -> None:
    large, small = write(tmp_path / "a"), write(tmp_path / "b", documents=1)
    blend = f"1 {large.prefix} 1 {small.prefix}"
    opened = open_gpt(wanted(blend, part="valid", split="90,10"))
    assert opened is not None and len(opened.files) == 1
    assert open_gpt(wanted(small.prefix, part="valid", split="90,10")) is None
    with pytest.raises(MccError, match="leaves 0 documents for training"):
        open_gpt(wanted(blend, split="0,10"))


def test_bert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = sentences(tmp_path / "d")
    report = index(data.prefix, IndexConfig(kind="bert", seq_length=16, train_iters=10, split="80,20"))
    assert [(part.part, part.documents) for part in report.parts] == [("train", 24), ("valid", 6)]
    assert sum(part.tokens or 0 for part in report.parts) == data.tokens
    forbid(monkeypatch)
    opened = open_bert(
        wanted(data.prefix, seq_length=16, num_samples=160, seed=1234, split="80,20"), MaskConfig(), None
    )
    assert opened is not None and len(opened.samples) == report.parts[0].samples >= 160


def test_other_files_of_the_same_name_are_noticed(tmp_path: Path) -> None:
    write(tmp_path / "d")
    report = index(tmp_path / "d", IndexConfig(seq_length=8, epochs=2, all_documents=True, eval_iters=0))
    folder = Path(report.parts[0].path)
    before = np.load(folder / "sample_idx.npy")
    (folder / "sample_idx.npy").write_bytes(b"cut")
    index(tmp_path / "d", IndexConfig(seq_length=8, epochs=2, all_documents=True))
    assert np.array_equal(np.load(folder / "sample_idx.npy"), before)
    write(tmp_path / "d", seed=1)
    index(tmp_path / "d", IndexConfig(seq_length=8, train_iters=len(before) - 1, global_batch_size=1, split="1"))
    names = [path.name for path in folder.parent.iterdir() if not path.name.startswith(".")]
    other = [name for name in names if name != folder.name]
    assert not other or not np.array_equal(np.load(folder.parent / other[0] / "sample_idx.npy"), before)


def test_a_cache_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / "d")
    config = IndexConfig(seq_length=8, epochs=2, all_documents=True, data_cache_path=str(tmp_path / "cache"))
    index(tmp_path / "data" / "d", config)
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["d.bin", "d.idx"]
    assert len(list((tmp_path / "cache").glob("d-*.samples/*/key.json"))) == 1


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    data = write(tmp_path / "d")
    (tmp_path / "d.samples").write_text("in the way", encoding="utf-8")
    warnings: list[str] = []

    class Listener(Silent):
        def warn(self, text: str) -> None:
            warnings.append(text)

    opened = open_gpt(wanted(data.prefix, split="1"), Listener())
    assert opened is not None and opened.files[0].folder is None
    assert np.array_equal(opened.samples[0], GPTSamples(data, range(60), 8, 200, 7)[0])
    assert len(warnings) == 1 and "built in memory" in warnings[0]
    with pytest.raises(MccError, match="indices cannot be written"):
        index(data.prefix, IndexConfig(seq_length=8, epochs=1, split="1"))


def _build(prefix: Path, log: Path) -> None:
    import mcc.data.training.open as module

    real = module.build_indices

    def counted(*args: Any) -> Any:
        with log.open("a") as file:
            file.write("built\n")
        return real(*args)

    module.build_indices = counted
    assert open_gpt(wanted(prefix, split="1")) is not None


def test_of_many_processes_one_builds(tmp_path: Path) -> None:
    data = write(tmp_path / "d")
    log = tmp_path / "log"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_build, args=(data.prefix, log)) for _ in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 8
    assert log.read_text() == "built\n"


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
    with pytest.raises(UsageError, match="tokens end to end"):
        IndexConfig(kind="bert", epochs=1)
    write(tmp_path / "d")
    with pytest.raises(MccError, match="too few for one sample"):
        index(tmp_path / "d", IndexConfig(seq_length=10_000, epochs=1))
