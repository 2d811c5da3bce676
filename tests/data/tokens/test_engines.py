"""The fast ways to tokenize give the ids of `tokenizers`, or are not taken."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from mcc.core.errors import UsageError
from mcc.data.tokens import engines
from mcc.data.tokens.engines import EngineMismatch, TokenizersEngine, check, choose_engine, make_engine, sample
from mcc.data.tokens.vocabulary import BERT_TOKENS, TextTokenizer, TokenizerFiles, load_tokenizer, word_piece

PIECES = [
    *BERT_TOKENS,
    *"abcdefghijklmnopqrstuvwxyz0123456789.,!?'-äß",
    *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz0123"),
]
PIECES += ["the", "quick", "##ick", "##ing", "日", "本", "un", "##able"]
# White space, controls, marks, capitals, ideographs, and the names of special tokens.
ALPHABET = st.sampled_from(
    [*"abTHEthequick .,!\n\t\r\x0b\x0c\x1c\x1d\x1f\x85\u00a0\u2028\u200b\u0301éÄßΣİ日本", "[SEP]", "[CLS]", "[SE", "P]"]
)


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bert") / "vocab.txt"
    path.write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    return path


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.one_of(st.lists(ALPHABET, max_size=30).map("".join), st.text(max_size=30)), max_size=5))
@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("special", [True, False])
def test_words_are_berts(vocabulary: Path, lowercase: bool, special: bool, texts: list[str]) -> None:
    tokenizer = TextTokenizer(word_piece(vocabulary, lowercase), vocabulary, special=special)
    check(make_engine("words", tokenizer), tokenizer, texts)


def test_words_remembers_few(vocabulary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_WORDS", 3)
    monkeypatch.setattr(engines, "_WORD_CHARS", 6)
    tokenizer = TextTokenizer(word_piece(vocabulary, True), vocabulary)
    engine = engines.WordsEngine(tokenizer)
    texts = ["the quick unthinkable", "a b c d e f g the", "the quickest", "a the b the c the", ""] * 3
    check(engine, tokenizer, texts)
    assert len(engine._newer) <= 3 and len(engine._older) <= 3
    assert max(map(len, [*engine._newer, *engine._older])) <= 6


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(), max_size=5))
def test_fastokens(tokenizer: Path, texts: list[str]) -> None:
    loaded = load_tokenizer(tokenizer)
    check(make_engine("fastokens", loaded), loaded, texts)


def test_the_fastest_that_knows_the_tokenizer_is_taken(tokenizer: Path, vocabulary: Path) -> None:
    assert choose_engine("auto", load_tokenizer(tokenizer))[0].name == "fastokens"
    assert choose_engine("auto", load_tokenizer(vocabulary))[0].name == "words"
    letters = Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    letters.pre_tokenizer = pre_tokenizers.UnicodeScripts()
    engine, why = choose_engine("auto", TextTokenizer(letters, Path("letters")))
    assert engine.name == "tokenizers" and why and "fastokens" in why
    with pytest.raises(UsageError, match="--engine words cannot do"):
        choose_engine("words", load_tokenizer(tokenizer))
    with pytest.raises(UsageError, match="did you mean 'fastokens'"):
        choose_engine("fastoken", load_tokenizer(tokenizer))


def test_an_engine_that_differs_is_not_taken(tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(TokenizersEngine):
        def encode(self, texts: object) -> tuple:
            ids, lengths = super().encode(texts)  # type: ignore[arg-type]
            return np.where(ids == ids[-1], 0, ids), lengths

    monkeypatch.setitem(engines._CLASSES, "fastokens", Wrong)
    loaded = load_tokenizer(tokenizer)
    engine, why = choose_engine("auto", loaded)
    assert engine.name == "tokenizers" and why and "gives other ids than tokenizers for" in why
    with pytest.raises(EngineMismatch):
        choose_engine("fastokens", loaded)


def test_samples_differ_from_block_to_block() -> None:
    texts = [f"{i} " * 2000 for i in range(50)]
    assert sample([], 3) == [] and sample(texts, 1) == sample(texts, 1) != sample(texts, 2)
    assert all(0 < len(piece) <= 512 for number in range(40) for piece in sample([*texts, "short"], number))


def test_threads_of_fastokens_stay_one(tokenizer: Path) -> None:
    program = """
import os, sys
from pathlib import Path
from mcc.data.tokens.engines import make_engine
from mcc.data.tokens.vocabulary import load_tokenizer
engine = make_engine("fastokens", load_tokenizer(sys.argv[1]))
engine.encode(["the quick brown fox and others " * 2000] * 50)
names = [Path("/proc/self/task", task, "comm").read_text() for task in os.listdir("/proc/self/task")]
assert not [name for name in names if "fastokens" in name], names
assert not {"RAYON_NUM_THREADS", "FASTOKENS_BPE_THREADS"} & set(os.environ)
"""
    if not Path("/proc/self/task").exists():
        pytest.skip("needs Linux")
    env = {key: value for key, value in os.environ.items() if not key.endswith("_THREADS")}
    subprocess.run([sys.executable, "-c", program, str(tokenizer)], check=True, env=env)


def test_special_tokens_of_a_real_model(shared_data: Path) -> None:
    vocabulary = shared_data / "bert" / "bert-base-uncased-vocab.txt"
    found = TokenizerFiles(vocab_file=str(vocabulary), special_tokens=True).read()
    engine, _ = choose_engine("auto", found)
    ids, lengths = engine.encode(["Hello, WORLD! unaffable", ""])
    assert ids.tolist() == [101, 7592, 1010, 2088, 999, 14477, 20961, 3468, 102, 101, 102] and lengths.tolist() == [
        9,
        2,
    ]
