"""Token files, against bytes written one number at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcc.core.errors import MccError, UsageError
from mcc.core.events import Silent
from mcc.data.base.records import ReadConfig
from mcc.data.indexed import IndexedDataset
from mcc.data.preprocess import PreprocessConfig, assemble, preprocess
from mcc.data.text.sentences import SentenceConfig
from mcc.data.tokenizer import load_tokenizer
from mcc.data.tokens import engines
from mcc.data.tokens.vocabulary import TokenizerFiles
from tests.data import megatron_writer
from tests.data.conftest import Write, read
from tests.data.text.test_sentences import write_punkt

TEXTS = ["the quick brown fox", "", "jumps ü 🦊 over", "x" * 3000, " \n"]


def assert_megatrons(
    prefix: Path, documents: list[list[str]], encode: Callable[[str], list[int]], eod: int | None, wide: bool = False
) -> None:
    expected = prefix.with_name("expected")
    megatron_writer.write(expected, documents, encode, eod, wide)
    assert megatron_writer.files(prefix) == megatron_writer.files(expected)
    for end in (".bin", ".idx"):
        Path(f"{expected}{end}").unlink()


@pytest.mark.parametrize("eod", [False, True])
@pytest.mark.parametrize("workers", [1, 2])
def test_bytes(jsonl: Write, tokenizer: Path, tmp_path: Path, eod: bool, workers: int) -> None:
    texts = TEXTS * (150 if workers > 1 else 1)
    config = PreprocessConfig(append_eod=eod, workers=workers)
    report = preprocess([jsonl("in.jsonl", texts)], tmp_path / "out", tokenizer, config)
    loaded = load_tokenizer(tokenizer)
    assert_megatrons(
        tmp_path / "out_text_document", [[text] for text in texts], loaded.encode, loaded.eod if eod else None
    )
    data = IndexedDataset(report.prefixes["text"])
    data.verify()
    assert report.tokens == {"text": data.tokens} and report.dtype == "uint16"
    # Every pointer is the end of what comes before: the end tokens are counted.
    assert (np.cumsum(data.sizes) * 2 == [*data.pointers[1:], 2 * data.tokens]).all()


def test_tokens_are_the_text(jsonl: Write, tokenizer: Path, tmp_path: Path) -> None:
    preprocess([jsonl("in.jsonl", TEXTS)], tmp_path / "out", tokenizer, PreprocessConfig(append_eod=True))
    loaded = load_tokenizer(tokenizer)
    found = [loaded.decode(tokens.tolist()) for tokens in IndexedDataset(tmp_path / "out_text_document")]
    assert found == [text + "<|endoftext|>" for text in TEXTS if text]


def test_several_keys(jsonl: Write, tokenizer: Path, tmp_path: Path) -> None:
    path = jsonl("in.jsonl", [{"title": "fox", "body": "the lazy dog"}, {"title": "", "body": "sleeps"}])
    config = PreprocessConfig(read=ReadConfig(keys=("title", "body")))
    report = preprocess([path], tmp_path / "out", tokenizer, config)
    loaded = load_tokenizer(tokenizer)
    for key, texts in (("title", ["fox"]), ("body", ["the lazy dog", "sleeps"])):
        data = IndexedDataset(report.prefixes[key])
        assert [loaded.decode(tokens.tolist()) for tokens in data] == texts
        assert data.documents == 2
    with pytest.raises(MccError, match=r"in\.jsonl:1: no key 'text'"):
        preprocess([path], tmp_path / "new", tokenizer, PreprocessConfig(read=ReadConfig(on_error="fail")))
    assert not list(tmp_path.glob("*new*"))


def test_no_end_token_for_append_eod(jsonl: Write, tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    path = jsonl("in.jsonl", ["a"])
    with pytest.raises(MccError, match="no end-of-document token"):
        preprocess([path], tmp_path / "out", tmp_path, PreprocessConfig(append_eod=True))
    assert not list(tmp_path.glob("out*"))
    preprocess([path], tmp_path / "out", tmp_path)
    with pytest.raises(UsageError, match="workers"):
        PreprocessConfig(workers=0)


def test_large_vocabularies_are_stored_in_four_bytes(jsonl: Write, tmp_path: Path) -> None:
    import json

    (tmp_path / "vocab.json").write_text(json.dumps({"a": 65_600, **{f"t{i}": i for i in range(65_600)}}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    report = preprocess([jsonl("in.jsonl", ["aa"])], tmp_path / "out", tmp_path)
    assert report.dtype == "int32"
    assert IndexedDataset(report.prefixes["text"])[0].tolist() == [65_600, 65_600]


@settings(max_examples=200, deadline=None)
@given(
    documents=st.lists(st.lists(st.lists(st.integers(1, 9), max_size=3), max_size=4), max_size=6),
    eod=st.sampled_from([None, 77]),
    many=st.sampled_from([1, 60]),
)
def test_assemble(documents: list[list[list[int]]], eod: int | None, many: int) -> None:
    documents = [[tokens * many for tokens in document] for document in documents]
    sentences = [tokens for document in documents for tokens in document]
    tokens, sizes, counts = assemble(
        np.array([token for tokens in sentences for token in tokens], dtype=np.uint16),
        np.array([len(tokens) for tokens in sentences], dtype=np.int64),
        np.array([len(document) for document in documents], dtype=np.int64),
        eod,
    )
    expected = []
    for document in documents:
        filled = [list(tokens) for tokens in document if tokens]
        if filled and eod is not None:
            filled[-1].append(eod)
        expected.append(filled)
    assert tokens.dtype == np.uint16 and tokens.tolist() == [t for d in expected for s in d for t in s]
    assert sizes.tolist() == [len(tokens) for document in expected for tokens in document]
    assert counts.tolist() == [len(document) for document in expected]


@pytest.mark.parametrize("eod", [False, True])
@pytest.mark.parametrize("keep", [False, True])
def test_sentences(jsonl: Write, shared_data: Path, tmp_path: Path, eod: bool, keep: bool) -> None:
    """BERT's way, as Megatron-LM does it: Punkt, word pieces, [SEP] at the end of documents."""
    texts = ["Dr. Smith left.  He met Mr. Jones!\n\nYes. ", "", " \n", "One", "\x01. \x02"]
    sentences = SentenceConfig(punkt=str(write_punkt(tmp_path / "punkt")), keep_newlines=keep)
    config = PreprocessConfig(append_eod=eod, sentences=sentences)
    vocabulary = TokenizerFiles(vocab_file=str(shared_data / "bert" / "bert-base-uncased-vocab.txt"))
    report = preprocess([jsonl("in.jsonl", texts)], tmp_path / "out", vocabulary, config)
    assert report.prefixes == {"text": str(tmp_path / "out_text_sentence")} and report.engine == "words"
    split = sentences.load()
    loaded = vocabulary.read()
    assert_megatrons(
        tmp_path / "out_text_sentence", [split(text) for text in texts], loaded.encode, 102 if eod else None
    )
    assert IndexedDataset(tmp_path / "out_text_sentence").documents == 5 and report.sequences["text"] == 5


def test_special_tokens_as_megatron_has_them(jsonl: Write, shared_data: Path, tmp_path: Path) -> None:
    vocabulary = str(shared_data / "bert" / "bert-base-uncased-vocab.txt")
    path = jsonl("in.jsonl", ["a b", ""])
    for special, expected in ((None, [[1037, 1038]]), (True, [[101, 1037, 1038, 102], [101, 102]])):
        preprocess([path], tmp_path / "out", TokenizerFiles(model=vocabulary, special_tokens=special))
        assert [tokens.tolist() for tokens in IndexedDataset(tmp_path / "out_text_document")] == expected


def test_bad_lines_are_set_aside(jsonl: Write, tokenizer: Path, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"text": "the fox"}\n{"text": 7}\n{"text"\n{"text": "\\ud800"}\n{"text": "dog\\u0000"}\n')
    report = preprocess([path], tmp_path / "out", tokenizer)
    assert (report.documents_in, report.bad_lines) == (2, 3)
    rejects = read(tmp_path / "out.rejects.jsonl")
    assert [entry["where"] for entry in rejects] == [f"{path}:{line}" for line in (2, 3, 4)]
    assert load_tokenizer(tokenizer).decode(IndexedDataset(tmp_path / "out_text_document")[1].tolist()) == "dog\0"
    with pytest.raises(UsageError, match="a key stands twice"):
        PreprocessConfig(read=ReadConfig(keys=("a", "a")))


class Heard(Silent):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


class Drifting(engines.TokenizersEngine):
    """Right before the run, wrong in its middle."""

    name = "fastokens"

    def encode(self, texts: object) -> tuple:
        ids, lengths = super().encode(texts)  # type: ignore[arg-type]
        return (ids + 1 if any("LATER" in text for text in texts) else ids), lengths  # type: ignore[attr-defined]


def test_a_fast_engine_that_errs_in_the_middle(
    jsonl: Write, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(engines._CLASSES, "fastokens", Drifting)
    path = jsonl("in.jsonl", ["the fox"] * 50 + ["LATER"] * 9)
    config = {"read": ReadConfig(block_bytes=300)}
    with pytest.raises(MccError, match="gives other ids than tokenizers for 'LATER'"):
        preprocess([path], tmp_path / "new", tokenizer, PreprocessConfig(engine="fastokens", **config))
    assert not list(tmp_path.glob("*new*"))
    heard = Heard()
    report = preprocess([path], tmp_path / "auto", tokenizer, PreprocessConfig(**config), heard)
    assert report.engine == "tokenizers" and "all is done again" in heard.warnings[0]
    preprocess([path], tmp_path / "plain", tokenizer, PreprocessConfig(engine="tokenizers", **config))
    assert megatron_writer.files(f"{tmp_path}/auto_text_document") == megatron_writer.files(
        f"{tmp_path}/plain_text_document"
    )


def test_blocks_workers_and_engines_do_not_change_a_byte(jsonl: Write, tokenizer: Path, tmp_path: Path) -> None:
    path = jsonl("in.jsonl", TEXTS * 20)
    results = set()
    for i, (size, workers, engine) in enumerate(((1 << 20, 1, "tokenizers"), (500, 1, "auto"), (900, 2, "fastokens"))):
        config = PreprocessConfig(append_eod=True, workers=workers, engine=engine, read=ReadConfig(block_bytes=size))
        preprocess([path], tmp_path / f"o{i}", tokenizer, config)
        results.add(megatron_writer.files(f"{tmp_path}/o{i}_text_document"))
    assert len(results) == 1


def test_a_vocabulary_with_holes(jsonl: Write, tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text('{"a": 70000}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(MccError, match="token 70000 does not fit uint16"):
        preprocess([jsonl("in.jsonl", ["a"])], tmp_path / "out", tmp_path)
