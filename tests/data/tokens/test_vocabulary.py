"""Tokenizers by Megatron-LM's names, against transformers' own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mcc.core.errors import MccError, UsageError
from mcc.data.tokens.engines import choose_engine
from mcc.data.tokens.vocabulary import END_OF_TEXT, SlowTokenizer, TokenizerFiles, load_tokenizer

TEXTS = ["Hello, WORLD! It's naïve.", "", "日本 x\x00y \u2028 [SEP] z", "a" * 150 + " b"]


@pytest.mark.parametrize("cased", [False, True])
def test_bert_is_transformers(shared_data: Path, tmp_path: Path, cased: bool) -> None:
    from transformers import BertTokenizerFast

    lines = (shared_data / "bert" / "bert-base-uncased-vocab.txt").read_text().splitlines()
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join([*lines, "Hello", "##LD"] if cased else lines) + "\n")
    kind = "BertWordPieceCase" if cased else "BertWordPieceLowerCase"
    theirs = BertTokenizerFast.from_pretrained(str(tmp_path), do_lower_case=not cased)
    for given in (TokenizerFiles(vocab_file=str(path), kind=kind), TokenizerFiles(model=str(path))):
        found = given.read()
        assert not found.special and found.eod == theirs.sep_token_id == 102 and found.vocab_size == len(theirs)
        for text in TEXTS:
            assert found.encode(text) == theirs(text, add_special_tokens=False).input_ids
            assert found.backend.encode(text).ids == theirs(text).input_ids


def test_gpt2_files_by_name(tmp_path: Path) -> None:
    (tmp_path / "v.json").write_text(json.dumps({"a": 0, "b": 1, "ab": 2, END_OF_TEXT: 3}))
    (tmp_path / "m.txt").write_text("#version: 0.2\na b\n")
    files = {"vocab_file": str(tmp_path / "v.json"), "merge_file": str(tmp_path / "m.txt")}
    for kind in (None, "GPT2BPETokenizer"):
        assert TokenizerFiles(**files, kind=kind).read().encode("abb") == [2, 1]
    with pytest.raises(UsageError, match="takes --vocab-file and --merge-file"):
        TokenizerFiles(vocab_file=files["vocab_file"], kind="GPT2BPETokenizer").read()
    with pytest.raises(UsageError, match="takes --vocab-file and --merge-file"):
        TokenizerFiles(**files, kind="BertWordPieceCase").read()


def test_a_folder_of_transformers(tokenizer: Path, tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    theirs = PreTrainedTokenizerFast(
        tokenizer_file=str(tokenizer), bos_token="<|endoftext|>", eos_token="fox", add_bos_token=True
    )
    theirs.save_pretrained(tmp_path)
    found = TokenizerFiles(model=str(tmp_path)).read()
    assert found.special and found.eod == theirs.eos_token_id == found.backend.token_to_id("fox")
    for text in ["the quick", ""]:
        assert found.backend.encode(text).ids == theirs(text).input_ids
    assert load_tokenizer(tmp_path).eod == theirs.eos_token_id


def test_a_tokenizer_in_python(tmp_path: Path) -> None:
    from transformers import ByT5Tokenizer

    theirs = ByT5Tokenizer()
    theirs.save_pretrained(tmp_path)
    found = TokenizerFiles(model=str(tmp_path)).read()
    assert isinstance(found, SlowTokenizer) and found.vocab_size == len(theirs) and found.require_eod() == 1
    engine, why = choose_engine("auto", found)
    ids, lengths = engine.encode(["héllo", ""])
    assert ids.tolist() == theirs("héllo").input_ids + theirs("").input_ids and why is None
    assert lengths.tolist() == [7, 1]
    with pytest.raises(UsageError, match="does not know"):
        choose_engine("fastokens", found)


def test_flags_that_do_not_fit() -> None:
    with pytest.raises(UsageError, match="give the tokenizer once"):
        TokenizerFiles()
    with pytest.raises(UsageError, match="give the tokenizer once"):
        TokenizerFiles(model="a", vocab_file="b")
    with pytest.raises(UsageError, match="--merge-file goes with"):
        TokenizerFiles(model="a", merge_file="b")
    with pytest.raises(UsageError, match="did you mean 'GPT2BPETokenizer'"):
        TokenizerFiles(model="a", kind="GPT2Tokenizer")
    with pytest.raises(MccError, match="no such tokenizer: a"):
        TokenizerFiles(model="a").read()


def test_files_that_are_no_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    with pytest.raises(MccError, match=r"vocab\.txt: not a BERT vocabulary: no \[PAD\]"):
        load_tokenizer(tmp_path)
    (tmp_path / "vocab.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(MccError, match=r"vocab\.txt: not a BERT vocabulary"):
        load_tokenizer(tmp_path / "vocab.txt")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"')
    with pytest.raises(MccError, match="transformers cannot load"):
        TokenizerFiles(model=str(tmp_path)).read()


def test_an_end_of_text_that_is_written_out(shared_data: Path) -> None:
    """Letters for Megatron-LM's GPT-2 tokenizer, the token for transformers'."""
    files = {
        "vocab_file": str(shared_data / "gpt2" / "vocab.json"),
        "merge_file": str(shared_data / "gpt2" / "merges.txt"),
    }
    text = "a<|endoftext|>b"
    for kind in (None, "GPT2BPETokenizer"):
        found = TokenizerFiles(**files, kind=kind).read()
        assert found.eod == 50256 and 50256 not in found.encode(text) and found.decode(found.encode(text)) == text
    assert 50256 in TokenizerFiles(**files, kind="HuggingFaceTokenizer").read().encode(text)
