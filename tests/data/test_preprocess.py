"""Token files, against bytes written one number at a time."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from mcc.core.errors import MccError, UsageError
from mcc.data.documents import ReadConfig
from mcc.data.indexed import IndexedDataset
from mcc.data.preprocess import PreprocessConfig, preprocess
from mcc.data.tokenizer import load_tokenizer
from tests.data.conftest import Write

TEXTS = ["the quick brown fox", "", "jumps ü 🦊 over", "x" * 3000, " \n"]


def plain_files(texts: list[str], tokenizer: Path, eod: bool) -> tuple[bytes, bytes]:
    """What Megatron-LM writes, by its description: tokens end to end; sizes, byte pointers, document entries.

    A document without tokens has no sequence and no end token, but an entry.
    """
    loaded = load_tokenizer(tokenizer)
    tokens, sizes, pointers, documents = b"", b"", b"", struct.pack("<q", 0)
    count = 0
    for text in texts:
        ids = loaded.backend.encode(text).ids
        if ids:
            ids = ids + [loaded.eod] * eod
            sizes += struct.pack("<i", len(ids))
            pointers += struct.pack("<q", len(tokens))
            tokens += b"".join(struct.pack("<H", i) for i in ids)
            count += 1
        documents += struct.pack("<q", count)
    head = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 8, count, len(texts) + 1)
    return tokens, head + sizes + pointers + documents


def files(prefix: Path) -> tuple[bytes, bytes]:
    return Path(f"{prefix}.bin").read_bytes(), Path(f"{prefix}.idx").read_bytes()


@pytest.mark.parametrize("eod", [False, True])
@pytest.mark.parametrize("workers", [1, 2])
def test_bytes(jsonl: Write, tokenizer: Path, tmp_path: Path, eod: bool, workers: int) -> None:
    texts = TEXTS * (150 if workers > 1 else 1)
    config = PreprocessConfig(append_eod=eod, workers=workers)
    report = preprocess([jsonl("in.jsonl", texts)], tmp_path / "out", tokenizer, config)
    assert files(tmp_path / "out_text_document") == plain_files(texts, tokenizer, eod)
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
