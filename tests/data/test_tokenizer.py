"""Training a tokenizer, and reading those of others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcc.core.errors import MccError, UsageError
from mcc.core.events import Silent
from mcc.data.tokenizer import END_OF_TEXT, TokenizerConfig, load_tokenizer, train_tokenizer
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


def test_the_same_text_gives_the_same_file_with_any_number_of_threads(jsonl: Write, tmp_path: Path) -> None:
    path = jsonl("in.jsonl", [f"Some words about number {i} and {i * i} and others like them." for i in range(500)])
    program = "import sys; from pathlib import Path; from mcc.data.tokenizer import *; "
    program += "train_tokenizer([sys.argv[1]], Path(sys.argv[2]), TokenizerConfig(vocab_size=600))"
    files = []
    for threads in ("1", "2", "3"):
        out = tmp_path / f"{threads}.json"
        subprocess.run(
            [sys.executable, "-c", program, str(path), str(out)], check=True, env={"RAYON_NUM_THREADS": threads}
        )
        files.append(out.read_bytes())
    assert files[0] == files[1] == files[2]


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


def test_no_end_of_document(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(MccError, match="no end-of-document token"):
        load_tokenizer(tmp_path).require_eod()


def test_a_vocabulary_must_hold_every_byte() -> None:
    with pytest.raises(UsageError, match="cannot hold every byte"):
        TokenizerConfig(vocab_size=256)
