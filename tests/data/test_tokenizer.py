"""Training a tokenizer, and reading those of others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, trainers

from mcc.core.errors import MccError, UsageError
from mcc.core.events import Silent
from mcc.data import tokenizer as tokenizer_module
from mcc.data.base.job import run
from mcc.data.base.records import ReadConfig
from mcc.data.tokenizer import END_OF_TEXT, TokenizerConfig, load_tokenizer, tokenizer_job, train_tokenizer
from mcc.data.tokens.vocabulary import BERT_TOKENS, byte_level
from tests.data.conftest import Write


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text())
def test_every_text_comes_back(tokenizer: Path, text: str) -> None:
    loaded = load_tokenizer(tokenizer)
    assert loaded.decode(loaded.encode(text)) == text


def test_what_was_trained(tokenizer: Path) -> None:
    loaded = load_tokenizer(tokenizer)
    assert loaded.vocab_size == 300
    assert loaded.eod == loaded.backend.token_to_id(END_OF_TEXT) == loaded.require_eod()
    assert loaded.encode(END_OF_TEXT) == [loaded.eod]
    assert len(loaded.encode("the quick brown fox")) < 12


@pytest.mark.parametrize("model", ["bpe", "wordpiece"])
def test_the_same_text_gives_the_same_file_with_any_number_of_threads(jsonl: Write, tmp_path: Path, model: str) -> None:
    path = jsonl("in.jsonl", [f"Some words about number {i} and {i * i} and others like them." for i in range(500)])
    program = "import sys; from pathlib import Path; from mcc.data.tokenizer import *; "
    program += f"train_tokenizer([sys.argv[1]], Path(sys.argv[2]), TokenizerConfig(vocab_size=600, model={model!r}))"
    files = []
    for threads in ("1", "2", "3"):
        out = tmp_path / f"{threads}.json"
        subprocess.run(
            [sys.executable, "-c", program, str(path), str(out)], check=True, env={"RAYON_NUM_THREADS": threads}
        )
        files.append(out.read_bytes())
    assert files[0] == files[1] == files[2]


def test_the_same_text_gives_the_same_file_with_any_number_of_workers(jsonl: Write, tmp_path: Path) -> None:
    path = jsonl("in.jsonl", [f"Some words about number {i}, {i * i} and {i**3}." for i in range(500)])
    files = []
    for workers in (1, 2):
        # So few words that they are thinned out.
        config = TokenizerConfig(vocab_size=400, max_words=1000, workers=workers, read=ReadConfig(block_bytes=4000))
        train_tokenizer([path], tmp_path / f"{workers}.json", config)
        files.append((tmp_path / f"{workers}.json").read_bytes())
    assert files[0] == files[1]
    with pytest.raises(UsageError, match="workers = 0"):
        TokenizerConfig(workers=0)


def test_a_job_that_runs_again_counts_anew(jsonl: Write, tmp_path: Path) -> None:
    path = jsonl("in.jsonl", [f"Some words about number {i} and others like them." for i in range(50)])
    task = tokenizer_job([path], tmp_path / "t.json", TokenizerConfig(vocab_size=300))
    run(task)
    first = (tmp_path / "t.json").read_bytes()
    path.write_text('{"text": "Quite another text, quite another vocabulary."}\n' * 500, encoding="utf-8")
    run(task)
    assert train_tokenizer([path], tmp_path / "u.json", TokenizerConfig(vocab_size=300)).documents_in == 500
    assert (tmp_path / "t.json").read_bytes() == (tmp_path / "u.json").read_bytes() != first


def test_a_small_corpus_gives_fewer_tokens(jsonl: Write, tmp_path: Path) -> None:
    class Listener(Silent):
        heard = ""

        def warn(self, text: str) -> None:
            self.heard += text

    listener = Listener()
    report = train_tokenizer([jsonl("in.jsonl", ["aaaa"])], tmp_path / "t", TokenizerConfig(vocab_size=999), listener)
    assert report.vocab_size < 300 and "999 were asked for" in listener.heard
    assert report.outputs == (str(tmp_path / "t" / "tokenizer.json"),)
    assert load_tokenizer(tmp_path / "t").vocab_size == report.vocab_size


def test_gpt2_files(tmp_path: Path) -> None:
    vocabulary = {"a": 0, "b": 1, "ab": 2, "Ġ": 3, END_OF_TEXT: 4}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
    loaded = load_tokenizer(tmp_path)
    assert (loaded.vocab_size, loaded.eod) == (5, 4)
    assert loaded.encode("ab a") == [2, 3, 0] and loaded.decode([2, 3, 0]) == "ab a"


def test_real_gpt2_vocabulary(shared_data: Path) -> None:
    loaded = load_tokenizer(shared_data / "gpt2")
    assert (loaded.vocab_size, loaded.eod) == (50257, 50256)
    assert loaded.encode("Hello world, it's 2024!") == [15496, 995, 11, 340, 338, 48609, 0]


def test_files_that_are_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(MccError, match="no such tokenizer"):
        load_tokenizer(tmp_path / "none.json")
    with pytest.raises(MccError, match="no tokenizer in"):
        load_tokenizer(tmp_path)
    for content in ("", "{}", "not json", '{"model": {"type": "BPE"}}'):
        (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(MccError, match=r"tokenizer\.json: not a tokenizer file") as caught:
            load_tokenizer(tmp_path / "tokenizer.json")
        assert "\n" not in caught.value.what
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.json").write_text("{")
    (tmp_path / "merges.txt").write_text("")
    with pytest.raises(MccError, match="not a GPT-2 vocabulary"):
        load_tokenizer(tmp_path)


def test_half_of_gpt2s_files(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    with pytest.raises(MccError, match=r"vocab\.json is only half of a tokenizer") as caught:
        load_tokenizer(tmp_path / "vocab.json")
    assert "merges.txt" in str(caught.value.hint)


def test_no_end_of_document(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(MccError, match="no end-of-document token"):
        load_tokenizer(tmp_path).require_eod()


def test_a_vocabulary_must_hold_every_byte() -> None:
    with pytest.raises(UsageError, match="cannot hold every byte"):
        TokenizerConfig(vocab_size=256)
    with pytest.raises(UsageError, match="lowercase goes with"):
        TokenizerConfig(lowercase=True)
    with pytest.raises(UsageError, match="bpe or wordpiece") as caught:
        TokenizerConfig(model="unigram")  # type: ignore[arg-type]
    assert "'unigram'" in caught.value.what


WORDS = st.sampled_from(
    [
        "the",
        "lower",
        "lowest",
        "newest",
        " wide",
        "\n",
        "  ",
        "\t",
        "it's",
        "x1",
        "日本語",
        "\u00a0",
        "\x1c",
        "...",
        "é",
    ]
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.lists(WORDS, max_size=30).map(" ".join), min_size=1, max_size=6))
def test_it_is_the_tokenizer_of_the_whole_text(jsonl: Write, tmp_path: Path, texts: list[str]) -> None:
    """Counting words first changes nothing while they fit into the table."""
    config = TokenizerConfig(vocab_size=300)
    train_tokenizer([jsonl("in.jsonl", texts)], tmp_path / "t.json", config)
    expected = byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        min_frequency=2,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    expected.train_from_iterator(texts, trainer)
    assert load_tokenizer(tmp_path / "t.json").backend.to_str() == expected.to_str()


@pytest.mark.parametrize("lowercase", [True, False])
def test_word_pieces_are_berts(jsonl: Write, tmp_path: Path, lowercase: bool) -> None:
    from transformers import BertTokenizerFast

    texts = ["The lowest and the newest tower, wider than the Lower one.", "Café towers: lowered, newer 日本"] * 30
    config = TokenizerConfig(model="wordpiece", vocab_size=60, lowercase=lowercase)
    report = train_tokenizer([jsonl("in.jsonl", texts)], tmp_path / "bert", config)
    assert report.outputs == (str(tmp_path / "bert" / "tokenizer.json"), str(tmp_path / "bert" / "vocab.txt"))
    pieces = (tmp_path / "bert" / "vocab.txt").read_text(encoding="utf-8").splitlines()
    assert pieces[:5] == list(BERT_TOKENS) and len(pieces) == report.vocab_size == 60
    ours = load_tokenizer(tmp_path / "bert")
    theirs = BertTokenizerFast.from_pretrained(str(tmp_path / "bert"), do_lower_case=lowercase)
    again = load_tokenizer(tmp_path / "bert" / "vocab.txt")
    for text in [*texts[:2], "unknown ☃ Towers", "", "[SEP] x"]:
        assert ours.encode(text) == theirs(text, add_special_tokens=False).input_ids == again.encode(text)
        assert ours.backend.encode(text).ids == theirs(text).input_ids
    assert ours.eod == 3 and "##er" in pieces


def test_bad_lines_and_no_documents(jsonl: Write, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"text": "aa aa"}\n{"text": 1}\n')
    report = train_tokenizer([path], tmp_path / "t.json", TokenizerConfig(vocab_size=258))
    assert (report.documents_in, report.bad_lines, report.chars_in) == (1, 1, 5)
    assert json.loads((tmp_path / "t.rejects.jsonl").read_text())["where"] == f"{path}:2"
    path.write_bytes(b"")
    with pytest.raises(MccError, match="no documents in"):
        train_tokenizer([path], tmp_path / "new.json")
    assert not list(tmp_path.glob("*new*"))


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet="ab \n\u3000", max_size=60), size=st.integers(1, 9))
def test_a_long_text_is_cut_in_pieces(text: str, size: int) -> None:
    whole = [word for some in tokenizer_module._cut(text) for word in some]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer_module, "_PIECE_CHARS", size)
        pieces = list(tokenizer_module._cut(text))
    assert [word for some in pieces for word in some] == whole and "".join(whole) == text
    longest = max(map(len, whole), default=0)
    assert all(sum(map(len, some)) <= size + 2 * longest for some in pieces)
