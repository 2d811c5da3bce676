"""Batches: the same samples whatever the layout and the size of batches; rows as transformers makes them."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from mcc.core.errors import MccError, UsageError
from mcc.data.indexed import IndexedDataset, IndexedWriter
from mcc.data.samples import GPTSamples, split_documents
from mcc.data.tokens.vocabulary import word_piece
from mcc.data.training.config import MaskConfig
from mcc.models.base.config import ModelConfig
from mcc.train.batch import Batch, on_positions, share, split
from mcc.train.config import DataConfig, RunConfig, TrainConfig
from mcc.train.data import open_data
from mcc.train.finetune.config import FinetuneConfig
from mcc.train.finetune.encode import Encoder
from mcc.train.finetune.resolve import resolve
from mcc.train.finetune.task import Example

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijkl", *(f"##{c}" for c in "abcdefghijkl")]
MODEL = ModelConfig(num_layers=1, hidden_size=8, num_attention_heads=1, seq_length=12, vocab_size=len(WORDS))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("".join(f"{word}\n" for word in WORDS), encoding="utf-8")
    return word_piece(path, lowercase=True).to_str()


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 documents of 5 sentences."""
    prefix = tmp_path_factory.mktemp("data") / "d"
    generator = np.random.default_rng(0)
    with IndexedWriter(prefix, np.uint16) as writer:
        for _ in range(40):
            for size in generator.integers(2, 9, 5):
                writer.add(generator.integers(5, len(WORDS), size).astype(np.uint16), end_document=False)
            writer.end_document()
    return prefix


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rte")
    generator = np.random.default_rng(1)
    for name, count in (("train", 21), ("dev", 10)):
        lines = ["index\tsentence1\tsentence2\tlabel"]
        for i in range(count):
            texts = ["".join(generator.choice(list("abc de"), 8)) + "f" for _ in range(2)]
            lines.append(f"{i}\t{texts[0]}\t{texts[1]}\t{('entailment', 'not_entailment')[i % 2]}")
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def gpt(tokens: Path, **data: Any) -> TrainConfig:
    return TrainConfig(
        model=MODEL,
        data=DataConfig(data_path=str(tokens), split="80,20", **data),
        run=RunConfig(micro_batch_size=1, global_batch_size=8, train_iters=12, eval_iters=2, seed=5),
    )


def bert(tokens: Path, head: str = "pretraining", **masking: Any) -> TrainConfig:
    model = dataclasses.replace(MODEL, family="bert", head=head, seq_length=32)
    return dataclasses.replace(gpt(tokens, masking=MaskConfig(**masking)), model=model)


def task(folder: Path, **finetune: Any) -> TrainConfig:
    config = TrainConfig(
        model=dataclasses.replace(MODEL, family="bert"),
        run=RunConfig(micro_batch_size=1, global_batch_size=8, seed=5),
        finetune=FinetuneConfig(task="rte", task_data=str(folder), **finetune),
    )
    return resolve(config)


def equal(a: Batch, b: Batch) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("kind", ["gpt", "bert", "task", "fixed"])
def test_no_layout_and_no_batch_size_changes_the_samples(
    tokens: Path, labelled: Path, tokenizer: str, kind: str
) -> None:
    fixed = gpt(tokens, samples="fixed")
    config = {"gpt": gpt(tokens), "bert": bert(tokens), "task": task(labelled), "fixed": fixed}[kind]
    source = open_data(config, tokenizer).train
    whole = source.batch(0, 48)
    for replicas in (1, 2, 8):
        for size in (8, 24):
            again = open_data(config, tokenizer).train
            parts = [
                again.batch(first, size, replica, replicas)
                for first in range(0, 48, size)
                for replica in range(replicas)
            ]
            assert equal({name: torch.cat([part[name] for part in parts]) for name in whole}, whole)
    # From the middle, as after a checkpoint; and cut into micro-batches.
    assert equal(source.batch(24, 8), split(whole, 6)[3])


def test_tokens_for_causal_models(tokens: Path) -> None:
    data = open_data(gpt(tokens))
    dataset = IndexedDataset(tokens)
    train, valid, _ = split_documents(len(dataset), "80,20")
    for source, documents, count in ((data.train, train, 96), (data.evaluations[0].source, valid, 16)):
        expected = GPTSamples(dataset, documents, 12, count, 5)
        batch = source.batch(0, count)
        rows = np.stack([expected[i] for i in range(count)])
        assert np.array_equal(batch["tokens"].numpy(), rows[:, :-1])
        assert np.array_equal(batch["targets"].numpy(), rows[:, 1:])
        assert batch["weights"].all() and batch["weights"].dtype == torch.float32
    assert (data.rows, data.seq_length, data.epoch_samples) == (1, 12, None)
    assert [(e.name, e.samples, e.metrics) for e in data.evaluations] == [("heldout", 16, None)]


def test_fixed_windows(tokens: Path) -> None:
    """Every epoch has every window once; window j is the tokens from j*T on, as the documents stand."""
    config = gpt(tokens, samples="fixed")
    source = open_data(dataclasses.replace(config, run=dataclasses.replace(config.run, train_iters=200))).train
    dataset = IndexedDataset(tokens)
    train, _, _ = split_documents(len(dataset), "80,20")
    text = np.concatenate([dataset[i] for i in train]).astype(np.int64)
    windows = (len(text) - 1) // 12
    steps, size = windows // 8, windows // 8 * 8
    assert (source.epoch_samples, source.distinct) == (size, size)
    assert [source.kept_by(replicas) for replicas in (1, 4)] == [size, size // 4]
    orders, places = [], []
    for epoch in range(2):
        batch = source.batch(epoch * size, size)
        ids = batch["ids"].numpy()
        assert len(set(ids)) == size and ids.max() < windows
        for i, row, target in zip(ids, batch["tokens"].numpy(), batch["targets"].numpy(), strict=True):
            assert np.array_equal(np.append(row, target[-1]), text[12 * i : 12 * i + 13])
            assert np.array_equal(row[1:], target[:-1])
        orders.append(ids.tolist())
        places.append([set(ids.reshape(steps, 8)[:, place]) for place in range(8)])
    assert orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1])
    assert places[0] == places[1]  # so a window stays on its replica


def test_fixed_windows_that_cannot_be(tokens: Path) -> None:
    blend = gpt(tokens, samples="fixed")
    blend = dataclasses.replace(blend, data=dataclasses.replace(blend.data, data_path=f"1 {tokens} 2 {tokens}"))
    with pytest.raises(UsageError, match="2 files with weights cannot be mixed"):
        open_data(blend)
    with pytest.raises(UsageError, match="masks its samples anew"):
        open_data(dataclasses.replace(bert(tokens), data=gpt(tokens, samples="fixed").data))
    few = dataclasses.replace(gpt(tokens, samples="fixed"), run=RunConfig(global_batch_size=4000, micro_batch_size=1))
    with pytest.raises(MccError, match="windows, fewer than global_batch_size = 4000"):
        open_data(few)
    long = gpt(tokens, samples="fixed")
    long = dataclasses.replace(long, model=dataclasses.replace(long.model, seq_length=5000))
    with pytest.raises(MccError, match="no window of 5000 tokens"):
        open_data(long)


def test_a_blend_and_held_out_files(tokens: Path) -> None:
    config = gpt(tokens, valid_data_path=str(tokens))
    blended = dataclasses.replace(config, data=dataclasses.replace(config.data, data_path=f"1 {tokens} 1 {tokens}"))
    source = open_data(blended).train
    alone = GPTSamples(IndexedDataset(tokens), range(200), 12, 49, 5)  # ceil(1.005 * 0.5 * 96)
    # Turn by turn from the two, which are the same here.
    for i in range(20):
        assert np.array_equal(source.batch(i, 1)["tokens"][0].numpy(), alone[i // 2][:-1])


def test_a_token_that_is_not_in_the_vocabulary(tokens: Path) -> None:
    config = gpt(tokens)
    small = dataclasses.replace(config, model=dataclasses.replace(MODEL, vocab_size=20))
    with pytest.raises(MccError, match=r"the data has token \d+, but vocab_size is 20"):
        open_data(small).train.batch(0, 96)


def test_masked_sentences(tokens: Path, tokenizer: str) -> None:
    batch = open_data(bert(tokens), tokenizer).train.batch(0, 64)
    predicted = batch["weights"] > 0
    # A sample with a short target may be too small for 15% of it to be a token.
    assert predicted.any(1).float().mean() > 0.8 and batch["padding"][predicted].all()
    assert (batch["targets"][~predicted] == 0).all()
    assert 0 < batch["labels"].sum() < 64 and batch["label_weights"].all()
    assert {name: tensor.dtype for name, tensor in batch.items()} == {
        "tokens": torch.int64,
        "targets": torch.int64,
        "weights": torch.float32,
        "token_types": torch.int64,
        "padding": torch.bool,
        "labels": torch.int64,
        "label_weights": torch.float32,
    }
    # Without a head for pairs there are none.
    alone = open_data(bert(tokens, head="lm"), tokenizer).train.batch(0, 16)
    assert not alone["token_types"].any() and not alone["labels"].any()
    with pytest.raises(UsageError, match="learns pairs"):
        open_data(bert(tokens, pairs="none"), tokenizer)
    with pytest.raises(UsageError, match="needs the tokenizer"):
        open_data(bert(tokens))


def test_epochs_of_a_task(labelled: Path, tokenizer: str) -> None:
    config = task(labelled, epochs=3)
    assert config.run.train_iters == 8  # 63 samples in batches of 8
    assert (config.model.head, config.model.num_labels) == ("classification", 2)
    data = open_data(config, tokenizer)
    rows = [tuple(row) for row in data.train.batch(0, 63)["tokens"].tolist()]
    epochs = [rows[21 * e : 21 * (e + 1)] for e in range(3)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(epochs[2])
    assert epochs[0] != epochs[1] != epochs[2]
    ids = data.train.batch(0, 63)["ids"].tolist()
    assert (data.train.distinct, data.train.epoch_samples) == (21, 21)
    assert all(sorted(ids[21 * e : 21 * (e + 1)]) == list(range(21)) for e in range(3))
    assert len(set(zip(ids, rows, strict=True))) == 21  # the same row whenever an id comes again
    assert [data.epoch_ended(8 * step, 8 * step + 8) for step in range(8)] == [
        False, False, True, False, False, True, False, True,
    ]  # fmt: skip


def test_dropout_in_place_of_the_checkpoints(labelled: Path, tokens: Path) -> None:
    model = dataclasses.replace(MODEL, hidden_dropout=0.1, attention_dropout=0.1)
    for settings in (task(labelled), gpt(tokens)):
        loaded = dataclasses.replace(settings, model=model)
        for given, wanted in ((None, 0.1), (0.0, 0.0), (0.2, 0.2)):
            found = resolve(
                dataclasses.replace(loaded, finetune=dataclasses.replace(settings.finetune, dropout=given))
            ).model
            assert (found.hidden_dropout, found.attention_dropout) == (wanted, wanted)
    with pytest.raises(UsageError, match="dropout = 1"):
        FinetuneConfig(dropout=1.0)


def test_a_family_without_the_head(labelled: Path, tokenizer: str) -> None:
    config = task(labelled)
    other = dataclasses.replace(config, model=dataclasses.replace(config.model, family="gpt2"))
    with pytest.raises(UsageError, match="unknown head of family gpt2 'classification'"):
        open_data(other, tokenizer)


def test_scored_examples_fill_up_the_last_batch(labelled: Path, tokenizer: str) -> None:
    (evaluation,) = open_data(task(labelled), tokenizer).evaluations
    assert (evaluation.name, evaluation.samples, len(evaluation.source)) == ("valid", 10, 10)
    assert evaluation.source.batch(8, 8)["label_weights"].tolist() == [1, 1, 0, 0, 0, 0, 0, 0]
    assert evaluation.source.batch(8, 8, 1, 2)["label_weights"].tolist() == [0, 0, 0, 0]
    assert evaluation.source.batch(16, 8)["label_weights"].sum() == 0
    labels = evaluation.source.batch(0, 10)["labels"]
    assert labels.tolist() == [0, 1] * 5
    assert evaluation.metrics is not None
    assert evaluation.metrics(np.eye(2)[[0] * 10], labels.numpy()) == {"accuracy": 0.5}


def test_a_context_parallel_rank(labelled: Path, tokenizer: str) -> None:
    batch = open_data(task(labelled), tokenizer).train.batch(0, 4)
    first, second = (on_positions(batch, torch.tensor(p)) for p in ([0, 1, 2, 9, 10, 11], [3, 4, 5, 6, 7, 8]))
    assert torch.equal(first["tokens"][:, 3:], batch["tokens"][:, 9:])
    assert torch.equal(second["padding"], batch["padding"][:, 3:9])
    assert first["label_weights"].all() and not second["label_weights"].any()
    assert torch.equal(second["labels"], batch["labels"])


def test_shares() -> None:
    assert [share(8, 8, replica, 4) for replica in range(4)] == [
        range(8, 10),
        range(10, 12),
        range(12, 14),
        range(14, 16),
    ]


def test_rows_as_transformers_makes_them(tmp_path: Path) -> None:
    root = os.environ.get("MCC_TEST_DATA")
    if root is None:
        pytest.skip("MCC_TEST_DATA is not set")
    from transformers import BertTokenizerFast

    from mcc.data.tokens.vocabulary import load_tokenizer

    vocabulary = Path(root) / "bert" / "bert-base-uncased-vocab.txt"
    shutil.copy(vocabulary, tmp_path / "vocab.txt")
    theirs = BertTokenizerFast.from_pretrained(tmp_path, do_lower_case=True)
    ours = Encoder(load_tokenizer(vocabulary).backend.to_str(), 32)
    pairs = [
        ("A short one.", "Another, unaffable one!"),
        ("word " * 40, "fly " * 9),
        ("a", "b " * 100),
        ("x " * 31, "y " * 31),
    ]
    found = ours([Example((pair,), 0) for pair in pairs])
    wanted = theirs(*zip(*pairs, strict=True), padding="max_length", truncation="longest_first", max_length=32)
    assert found["tokens"].tolist() == wanted["input_ids"]
    assert found["token_types"].tolist() == wanted["token_type_ids"]
    assert found["padding"].astype(int).tolist() == wanted["attention_mask"]
    alone = ours([Example((("One text alone", None),), 0)])
    assert alone["tokens"].tolist() == theirs(["One text alone"], padding="max_length", max_length=32)["input_ids"]


def test_the_first_text_is_cut_before(tokenizer: str) -> None:
    encoder = Encoder(tokenizer, 10, first_text_tokens=3)
    found = encoder([Example((("a b c d e", "f g h i j k"),), 0)])
    backend = Tokenizer.from_str(tokenizer)
    words = [backend.id_to_token(i) for i in found["tokens"][0].tolist()]
    assert words == ["[CLS]", "a", "b", "c", "[SEP]", "f", "g", "h", "i", "[SEP]"]
    assert found["token_types"][0].tolist() == [0] * 5 + [1] * 5
