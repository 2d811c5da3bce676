"""Perplexity against the protocol written down a second time, position by position, on transformers' model."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mcc.core.errors import MccError, UsageError
from mcc.core.events import Silent
from mcc.eval import perplexity as module
from mcc.eval.detokenize import wikitext
from mcc.eval.loading import Loaded
from mcc.eval.perplexity import perplexity, perplexity_of, windows
from mcc.eval.tokenizer import TextTokenizer

CONTEXT = 48


def megatron_log_likelihood(hf_model: Any, tokens: list[int], overlap: int) -> float:
    """Megatron-LM's data set as it pads and masks: one window at a time, the mask over all but the newest tokens."""
    total = 0.0
    count = max(math.ceil(max(len(tokens) - 1 - overlap, 0) / overlap) + 1, 1)
    for index in range(count):
        window = tokens[index * overlap :][: CONTEXT + 1]
        mask = [1] * (len(window) - 1) + [0] * (CONTEXT + 1 - len(window))
        window = window + [0] * (CONTEXT + 1 - len(window))
        if overlap != CONTEXT and index:
            mask[:-overlap] = [0] * (CONTEXT - overlap)
        with torch.no_grad():
            log_probs = hf_model(torch.tensor([window[:-1]])).logits[0].double().log_softmax(-1)
        picked = log_probs[torch.arange(CONTEXT), torch.tensor(window[1:])]
        total += float((picked * torch.tensor(mask)).sum())
    return total


@pytest.mark.parametrize(("characters", "overlap"), [(3000, 32), (3000, 48), (700, 7), (60, 32), (5, 1)])
def test_plain_text_is_scored_by_megatrons_protocol(
    loaded: Loaded, hf_model: Any, corpus: str, tmp_path: Path, characters: int, overlap: int
) -> None:
    text = corpus[:characters]
    file = tmp_path / "text.txt"
    file.write_text(text, encoding="utf-8", newline="")
    tokens = loaded.tokenizer.encode(text)
    report = perplexity_of(loaded, file, overlap=overlap, batch_tokens=500)
    expected = megatron_log_likelihood(hf_model, tokens, overlap)
    assert report.log_likelihood == pytest.approx(expected, rel=1e-6)
    assert (report.tokens, report.scored_tokens, report.documents) == (len(tokens), len(tokens) - 1, 1)
    assert report.perplexity == pytest.approx(math.exp(-expected / (len(tokens) - 1)), rel=1e-5)
    words = len(text.split())
    assert report.words == words
    if words > 1:
        nats = -expected / (len(tokens) - 1) * (len(tokens) - 1) / (words - 1)
        assert report.word_perplexity == pytest.approx(math.exp(min(700.0, nats)), rel=1e-3)


def test_wikitext_words_are_counted_before_detokenising(loaded: Loaded, hf_model: Any, tmp_path: Path) -> None:
    text = ' = Size = \n \n It weighs 1 @,@ 000 kg ( 2 @,@ 200 lb ) , and it \'s " big " . \n It ends . \n '
    file = tmp_path / "wiki.txt"
    file.write_text(text, encoding="utf-8")
    report = perplexity_of(loaded, file, detokenize="wikitext")
    assert report.tokens == len(loaded.tokenizer.encode(wikitext(text)))
    assert report.words == 29  # three of them are line ends, as in WikiText's own count
    assert report.words == len(text.strip().split(" "))


@given(length=st.integers(0, 200), context=st.integers(1, 20), data=st.data(), prefixed=st.booleans())
def test_windows_predict_each_token_once(length: int, context: int, data: Any, prefixed: bool) -> None:
    overlap = data.draw(st.integers(1, context))
    prefix = [-1] if prefixed else []
    tokens = prefix + list(range(length))
    spans = list(windows(range(length), context, overlap, prefix))
    assert [token for span in spans for token in span.targets] == tokens[1:]
    for span in spans:
        assert 1 <= len(span.targets) <= len(span.inputs) <= context
        # Inputs are the tokens just before the last target, without a gap.
        end = tokens.index(span.targets[-1])
        assert span.inputs == tokens[end - len(span.inputs) : end]
        assert len(span.inputs) - len(span.targets) >= min(context - overlap, end - len(span.targets))


def test_documents_are_scored_after_an_end_of_text_token(
    loaded: Loaded, hf_model: Any, jsonl: Callable[..., Path], passages: list[str]
) -> None:
    texts = [*passages[:6], ""]
    file = jsonl([{"text": text, "id": i} for i, text in enumerate(texts)], "docs.jsonl")
    report = perplexity_of(loaded, file, overlap=16)
    streams = [[0, *loaded.tokenizer.encode(text)] for text in texts]
    expected = sum(megatron_log_likelihood(hf_model, stream, 16) for stream in streams if len(stream) > 1)
    assert report.log_likelihood == pytest.approx(expected, rel=1e-6)
    assert report.documents == 7
    assert report.scored_tokens == report.tokens == sum(len(stream) - 1 for stream in streams)
    words = sum(len(text.split()) for text in texts)
    assert report.words == words
    assert report.word_perplexity == pytest.approx(math.exp(min(700.0, -expected / words)), rel=1e-4)


def test_batches_change_nothing(loaded: Loaded, corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "text.txt"
    file.write_text(corpus[:3000], encoding="utf-8")
    whole = perplexity_of(loaded, file, batch_tokens=10**6)
    monkeypatch.setattr(module, "_GATHERED_TOKENS", 100)
    parts = perplexity_of(loaded, file, batch_tokens=1, word_level=False)
    assert parts.log_likelihood == pytest.approx(whole.log_likelihood, rel=1e-6)
    assert parts.scored_tokens == whole.scored_tokens
    assert parts.word_perplexity is None and parts.words is None


SPACES = st.sampled_from(
    [" ", "  ", "\n", "\n\n", "\t", " \n", "\u00a0", "\u00a0 ", "\x1c ", "\r\n", "\u2003", " \u00a0"]
)
WORDS = st.sampled_from(["a", "the", "don't", "x1", "...", "!\x1c", "caf\u00e9", "\U0001f600", "<|endoftext|>", "'s"])


@given(parts=st.lists(st.one_of(SPACES, WORDS), max_size=60), size=st.integers(1, 12))
def test_pieces_give_the_tokens_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory, tokenizer: TextTokenizer, parts: list[str], size: int
) -> None:
    text = "".join(parts)
    file = tmp_path_factory.mktemp("pieces") / "text.txt"
    file.write_text(text, encoding="utf-8", newline="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_PIECE_CHARS", size)
        texts = module._Texts(tokenizer, file, "text", None, Silent())
        pieces = list(texts._plain())
        assert "".join(pieces) == text
        assert list(texts._ids(iter(pieces))) == tokenizer.encode(text)
        assert texts.words == len(text.split())


def test_a_tokenized_text_is_warned_of(loaded: Loaded, tmp_path: Path) -> None:
    class Warned(Silent):
        text = ""

        def warn(self, text: str) -> None:
            self.text = text

    file = tmp_path / "wiki.txt"
    file.write_text("It weighs 1 @,@ 000 kg .", encoding="utf-8")
    reporter = Warned()
    perplexity_of(loaded, file, reporter=reporter)
    assert "looks tokenized" in reporter.text and "--detokenize wikitext" in reporter.text


def test_wrong_input(loaded: Loaded, tmp_path: Path) -> None:
    def write(name: str, content: bytes) -> Path:
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    for name, content, message in (
        ("empty.txt", b"", "empty.txt is empty: there is nothing to score"),
        ("empty.jsonl", b"\n", "empty.jsonl is empty"),
        ("one.txt", b"a", "has 1 tokens: there is nothing to predict"),
        ("latin.txt", "caf\u00e9 x".encode("latin-1"), "latin.txt is not UTF-8"),
        ("bad.jsonl", b'{"text": "a"}\n{"body": "b"}\n', r"bad.jsonl:2: no text in field 'text' \(has 'body'\)"),
        ("cut.jsonl", b'{"text": "a"\n', "cut.jsonl:1: not JSON"),
    ):
        with pytest.raises(MccError, match=message):
            perplexity_of(loaded, write(name, content))
    good = write("good.txt", b"some words here")
    for overlap in (0, CONTEXT + 1):
        with pytest.raises(UsageError, match=f"overlap = {overlap} must be from 1 to the model's context of 48"):
            perplexity_of(loaded, good, overlap=overlap)
    with pytest.raises(UsageError, match="unknown detokenizer 'wiki'"):
        perplexity("tiny", good, detokenize="wiki")
    with pytest.raises(MccError, match="no such text file"):
        perplexity("tiny", tmp_path / "none.txt")


@pytest.mark.skipif("MCC_TEST_DATA" not in os.environ, reason="MCC_TEST_DATA is not set")
def test_detokeniser_is_that_of_the_harness_on_wikitext() -> None:
    from lm_eval.tasks.wikitext.preprocess_wikitext import wikitext_detokenizer

    text = Path(os.environ["MCC_TEST_DATA"], "wikitext2", "valid.txt").read_text(encoding="utf-8")
    assert wikitext(text) == wikitext_detokenizer({"page": text})


@settings(deadline=None)  # the first call imports the harness
@given(st.text(alphabet="sN'\"(){}[] \n=.,:;!?@-\u00b0ab1", max_size=60))
def test_detokeniser_is_that_of_the_harness(text: str) -> None:
    from lm_eval.tasks.wikitext.preprocess_wikitext import wikitext_detokenizer

    assert wikitext(text) == wikitext_detokenizer({"page": text})


def test_report_is_json(loaded: Loaded, tmp_path: Path) -> None:
    from dataclasses import asdict

    file = tmp_path / "a.txt"
    file.write_text("some words that are scored")
    assert json.loads(json.dumps(asdict(perplexity_of(loaded, file))))["documents"] == 1
