"""BERT's samples against a slow reference, and the statistics of their masks."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcc.core.errors import MccError, UsageError
from mcc.data.indexed import IndexedDataset, IndexedWriter
from mcc.data.tokens.vocabulary import word_piece
from mcc.data.training.bert_samples import BertSamples
from mcc.data.training.config import MaskConfig
from mcc.data.training.masking import Vocabulary, crop
from mcc.data.training.mersenne import Mersenne64, shuffled
from mcc.data.training.sentence_pairs import PairKey, build_pairs
from tests.data.training import reference

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"{'##' * (i % 3 == 0)}{i}" for i in range(5, 60))]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("".join(f"{piece}\n" for piece in PIECES), encoding="utf-8")
    return Vocabulary.of(word_piece(path, lowercase=True))


def store(prefix: Path, documents: list[list[int]], seed: int = 0) -> IndexedDataset:
    """Documents of sentences of these lengths, ordinary tokens."""
    generator = np.random.default_rng(seed)
    with IndexedWriter(prefix, np.uint16) as writer:
        for sentences in documents:
            for size in sentences:
                writer.add(generator.integers(5, 60, size).astype(np.uint16), end_document=False)
            writer.end_document()
    return IndexedDataset(prefix)


def corpus(prefix: Path, documents: int = 60) -> IndexedDataset:
    generator = np.random.default_rng(3)
    return store(
        prefix, [generator.integers(1, 30, generator.integers(0, 12)).tolist() for _ in range(documents)], seed=4
    )


def test_the_twister_is_the_standards() -> None:
    for seed in (0, 5489, 1235, 2**64 - 1):
        slow, fast = reference.twister64(seed), Mersenne64(seed)
        drawn = np.concatenate([fast.draw(n) for n in (1, 311, 312, 5, 700)])
        assert drawn.tolist() == [next(slow) for _ in range(len(drawn))]
    assert sorted(shuffled(200_000, 7).tolist()) == list(range(200_000))


@settings(max_examples=50, deadline=None)
@given(
    documents=st.lists(
        st.lists(st.one_of(st.integers(0, 25), st.just(513)), max_size=9), min_size=1, max_size=10
    ).filter(lambda documents: any(len(d) > 1 and max(d) <= 512 for d in documents)),
    longest=st.integers(2, 40),
    wanted=st.integers(1, 50),
    seed=st.integers(0, 2**31 - 1),
    short=st.sampled_from([0.0, 0.1, 0.4, 1.0]),
    least=st.sampled_from([1, 2]),
)
def test_the_same_samples_as_megatron(
    tmp_path_factory: pytest.TempPathFactory,
    documents: list[list[int]],
    longest: int,
    wanted: int,
    seed: int,
    short: float,
    least: int,
) -> None:
    data = store(tmp_path_factory.mktemp("d") / "d", documents)
    key = PairKey(0, len(documents), longest + 3, wanted, seed, short, least)
    found = build_pairs(data, key)
    assert found.tolist() == [
        list(row) for row in reference.pairs(data, range(len(documents)), longest, wanted, seed, short, least)
    ]


def test_a_part_of_the_documents_in_small_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = corpus(tmp_path / "d")
    whole = build_pairs(data, PairKey(11, 47, 40, 300, 9))
    monkeypatch.setattr("mcc.data.training.sentence_pairs._SENTENCES", 7)
    monkeypatch.setattr("mcc.data.training.sentence_pairs._DRAWS", 3)
    key = PairKey(11, 47, 40, 300, 9)
    assert build_pairs(data, key).tolist() == whole.tolist()
    assert whole.tolist() == [list(row) for row in reference.pairs(data, range(11, 47), 37, 300, 9, 0.1, 2)]


@pytest.mark.parametrize(("length", "seed"), [(16, 1), (64, 1234), (200, 2**31)])
def test_the_same_masks_as_megatron(tmp_path: Path, vocabulary: Vocabulary, length: int, seed: int) -> None:
    data = corpus(tmp_path / "d")
    samples = BertSamples(data, PairKey(0, data.documents, length, 150, seed), vocabulary, MaskConfig())
    pieces = dict(enumerate(PIECES))
    for i in range(150):
        start, stop, goal = samples.pairs[i].tolist()
        sentences = [data[s].tolist() for s in range(start, stop)]
        tokens, types, targets, padding, swapped = reference.sample(sentences, goal, length, seed + i, pieces)
        found = samples[i]
        assert found.tokens.tolist() == tokens
        assert found.token_types.tolist() == types
        assert found.padding.tolist() == [bool(value) for value in padding]
        assert np.where(found.weights > 0, found.targets, -1).tolist() == targets
        assert found.label == swapped


def test_statistics_of_masks(tmp_path: Path, vocabulary: Vocabulary) -> None:
    # Long samples, so that 15% is hardly rounded.
    generator = np.random.default_rng(0)
    data = store(tmp_path / "d", [generator.integers(5, 40, 20).tolist() for _ in range(300)])
    config = MaskConfig(short_seq_prob=0.0)
    samples = BertSamples(data, PairKey(0, 300, 256, 800, 5, 0.0), vocabulary, config)
    chosen = masked = kept = tokens = swapped = 0
    for sample in (samples[i] for i in range(len(samples))):
        there = sample.weights > 0
        chosen += int(there.sum())
        masked += int((sample.tokens[there] == vocabulary.mask).sum())
        kept += int((sample.tokens[there] == sample.targets[there]).sum())
        tokens += int(sample.padding.sum())
        swapped += sample.label
        ordinary = sample.padding & (sample.tokens != vocabulary.cls) & (sample.tokens != vocabulary.sep)
        assert not there[~(ordinary | there)].any() and not np.isin(sample.targets[there], (2, 3)).any()
    words = len(PIECES)
    within(masked, chosen, 0.8 + 0.1 / words)
    within(kept, chosen, 0.1 + 0.1 / words)
    within(swapped, len(samples), 0.5)
    # The number itself is drawn by nobody: the rounding of 15%, less what no whole word fits into.
    assert 0.14 < chosen / tokens <= 0.152


def within(count: int, total: int, share: float) -> None:
    """Five deviations of a binomial: one run in two million is outside."""
    assert abs(count - share * total) < 5 * math.sqrt(total * share * (1 - share))


def test_words_are_whole(tmp_path: Path, vocabulary: Vocabulary) -> None:
    data = corpus(tmp_path / "d")
    samples = BertSamples(data, PairKey(0, data.documents, 64, 100, 5), vocabulary, MaskConfig())
    seen = 0
    for sample in (samples[i] for i in range(100)):
        whole = np.where(sample.weights > 0, sample.targets, sample.tokens)
        places = [p for p in np.flatnonzero(sample.padding) if whole[p] not in (vocabulary.cls, vocabulary.sep)]
        for here, after in pairwise(places):
            if not vocabulary.starts[whole[after]]:
                assert (sample.weights[here] > 0) == (sample.weights[after] > 0)
                seen += sample.weights[here] > 0
    assert seen > 50


def test_other_pairs(tmp_path: Path, vocabulary: Vocabulary) -> None:
    data = corpus(tmp_path / "d")
    document = np.repeat(np.arange(data.documents), np.diff(data.doc_idx))
    after = BertSamples(data, PairKey(0, data.documents, 48, 200, 5), vocabulary, MaskConfig(pairs="next"))
    labels = [after[i].label for i in range(200)]
    within(sum(labels), 200, 0.5)
    start = int(after.pairs[0][0])
    generator = np.random.RandomState(0)
    texts = {tuple(np.concatenate([data[s] for s in np.flatnonzero(document == document[start])])[-5:].tolist())}
    assert all(tuple(after._from_elsewhere(start, generator)[-5:].tolist()) not in texts for _ in range(50))
    alone = BertSamples(data, PairKey(0, data.documents, 48, 200, 5, 0.1, 1), vocabulary, MaskConfig(pairs="none"))
    for sample in (alone[i] for i in range(100)):
        whole = np.where(sample.weights > 0, sample.targets, sample.tokens)
        assert sample.label == 0 and not sample.token_types.any() and (whole == vocabulary.sep).sum() == 1


@given(a=st.integers(0, 50), b=st.integers(0, 50), longest=st.integers(1, 60), seed=st.integers(0, 100))
def test_crop_leaves_the_longest(a: int, b: int, longest: int, seed: int) -> None:
    halves = crop(a, b, longest, np.random.RandomState(seed))
    lengths = [stop - start for start, stop in halves]
    assert sum(lengths) == min(a + b, longest)
    assert all(0 <= start <= stop <= size for (start, stop), size in zip(halves, (a, b), strict=True))


def test_refusals(tmp_path: Path, vocabulary: Vocabulary) -> None:
    data = store(tmp_path / "d", [[5], [600, 3], []])
    with pytest.raises(MccError, match="none of 3 documents has 2 sentences"):
        build_pairs(data, PairKey(0, 3, 32, 1, 1))
    with pytest.raises(UsageError, match="seq_length = 4 has no room"):
        BertSamples(data, PairKey(0, 3, 4, 1, 1), vocabulary, MaskConfig())
    with pytest.raises(UsageError, match="mask_prob = 2"):
        MaskConfig(mask_prob=2.0)


def test_a_vocabulary_without_masks(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    with pytest.raises(MccError, match=r"no \[CLS\], \[SEP\], \[MASK\], \[PAD\]"):
        Vocabulary.of(Tokenizer(models.BPE()))
