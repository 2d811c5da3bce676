"""Texts are those of `transformers.generate` on the same weights, whatever the batch."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mcc.core.errors import MccError
from mcc.eval.generation import generate as library
from mcc.eval.generation.decoding import Decoding
from mcc.eval.generation.generate import complete, end_tokens
from mcc.eval.generation.records import Prompt
from mcc.eval.loading import Loaded
from mcc.eval.tokenizer import TextTokenizer

NEW = 12
CHOICES = [{}, {"repetition_penalty": 1.5}]


@pytest.fixture
def prompts(passages: list[str], tokenizer: TextTokenizer) -> list[Prompt]:
    """Of all lengths that leave room, and one that comes twice."""
    texts = [text for text in passages if len(tokenizer.encode(text)) <= 48 - NEW][:8]
    assert len(texts) > 4
    return [Prompt(text) for text in [*texts, texts[0], "a"]]


def theirs(hf_model: Any, tokenizer: TextTokenizer, prompt: str, **options: Any) -> list[list[int]]:
    """The new tokens of one prompt, of each sequence, by transformers; alone, so that nothing is padded."""
    tokens = torch.tensor([tokenizer.encode(prompt)])
    options = {"max_new_tokens": NEW, "do_sample": False, "pad_token_id": 0, "eos_token_id": 0, **options}
    out = hf_model.generate(tokens, attention_mask=torch.ones_like(tokens), **options)
    found = []
    for row in out[:, tokens.shape[1] :].tolist():
        ends = options["eos_token_id"]
        end = next((i for i, token in enumerate(row) if token in (ends if isinstance(ends, list) else [ends])), NEW)
        found.append(row[: end + 1])
    return found


@pytest.mark.parametrize("choices", CHOICES, ids=str)
@pytest.mark.parametrize("batch_tokens", [1, 10_000])
def test_greedy_texts_are_those_of_transformers(
    loaded: Loaded, hf_model: Any, prompts: list[Prompt], batch_tokens: int, choices: dict[str, Any]
) -> None:
    found = complete(loaded, prompts, Decoding(max_new_tokens=NEW, **choices), batch_tokens)
    assert [one.prompt for one in found] == prompts
    for one in found:
        assert [one.tokens] == theirs(hf_model, loaded.tokenizer, one.prompt.text, **choices)
        assert one.text == loaded.tokenizer.decode(one.tokens, skip_special=True)


@pytest.mark.parametrize(
    "choices",
    [{}, {"length_penalty": 3.0}, {"length_penalty": -2.0}, {"repetition_penalty": 1.3}],
    ids=str,
)
def test_beams_are_those_of_transformers(
    loaded: Loaded,
    hf_model: Any,
    prompts: list[Prompt],
    choices: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Tokens that end a text are made likely, so that beams of many lengths meet."""
    ends = sorted({t for prompt in prompts[:4] for t in theirs(hf_model, loaded.tokenizer, prompt.text)[0][3:6]})
    monkeypatch.setattr(library, "end_tokens", lambda _: frozenset(ends))
    decoding = Decoding(max_new_tokens=NEW, beams=3, num_samples=2, **choices)
    found = complete(loaded, prompts, decoding, 10_000)
    lengths = set()
    for number, prompt in enumerate(prompts):
        options: dict[str, Any] = {"num_beams": 3, "num_return_sequences": 2, "eos_token_id": ends, **choices}
        expected = theirs(hf_model, loaded.tokenizer, prompt.text, **options)
        assert [one.tokens for one in found[2 * number : 2 * number + 2]] == expected
        lengths |= {len(tokens) for tokens in expected}
    assert len(lengths) > 2


def test_log_likelihoods_are_the_models_own(loaded: Loaded, prompts: list[Prompt]) -> None:
    sampled = complete(loaded, prompts[:3], Decoding(temperature=0.5, top_k=9, max_new_tokens=NEW))
    searched = complete(loaded, prompts[:3], Decoding(beams=2, max_new_tokens=NEW))
    for one in [*sampled, *searched]:
        tokens = loaded.tokenizer.encode(one.prompt.text)
        with torch.no_grad():
            logits = loaded.model(torch.tensor([tokens + one.tokens]))[0, :, : loaded.model.config.vocab_size]
        scores = logits.log_softmax(-1)[len(tokens) - 1 : -1].gather(1, torch.tensor(one.tokens)[:, None])
        assert one.log_likelihood == pytest.approx(float(scores.sum()), abs=1e-4)
    for one in searched:
        assert one.score == pytest.approx(one.log_likelihood / len(one.tokens))


def test_a_sample_does_not_depend_on_its_batch(loaded: Loaded, prompts: list[Prompt]) -> None:
    decoding = Decoding(temperature=1.0, num_samples=3, max_new_tokens=NEW, seed=5)
    together = complete(loaded, prompts, decoding, 10_000)
    alone = complete(loaded, prompts, decoding, 1)
    assert [one.tokens for one in together] == [one.tokens for one in alone]
    fewer = complete(loaded, prompts[:2], dataclasses.replace(decoding, num_samples=2))
    kept = [one.tokens for one in together if one.number < 2 and one.sample < 2]
    assert [one.tokens for one in fewer] == kept
    assert len({tuple(one.tokens) for one in together}) == len(together)
    other = complete(loaded, prompts[:2], dataclasses.replace(decoding, num_samples=2, seed=6))
    assert not {tuple(one.tokens) for one in other} & {tuple(tokens) for tokens in kept}


def test_samples_follow_the_distribution(loaded: Loaded) -> None:
    """First tokens of many samples: chi-squared of the likeliest ones stays below its 1e-6 quantile for this seed."""
    decoding = Decoding(temperature=0.4, top_k=5, num_samples=2000, max_new_tokens=1)
    found = [one.tokens[0] for one in complete(loaded, [Prompt("a")], decoding)]
    tokens = loaded.tokenizer.encode("a")
    with torch.no_grad():
        logits = loaded.model(torch.tensor([tokens]))[0, -1, : loaded.model.config.vocab_size]
    values, best = (logits / 0.4).topk(5)
    expected = 2000 * values.softmax(-1).double()
    counts = torch.tensor([found.count(token) for token in best.tolist()])
    assert counts.sum() == 2000
    assert float(((counts - expected) ** 2 / expected).sum()) < 33.4


def test_texts_of_their_own_begin_after_the_end_of_one(loaded: Loaded) -> None:
    (one,) = complete(loaded, [Prompt()], Decoding(max_new_tokens=3))
    with torch.no_grad():
        logits = loaded.model(torch.tensor([[loaded.tokenizer.prefix_id]]))[0, -1, : loaded.model.config.vocab_size]
    assert one.tokens[0] == int(logits.argmax())


def test_a_text_ends_at_its_stop_strings_and_at_its_end(
    loaded: Loaded, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = complete(loaded, prompts, Decoding(max_new_tokens=NEW, ignore_eos=True))
    stop = plain[0].text[2:4]
    parts: list[str] = []
    found = complete(loaded, prompts[:1], Decoding(max_new_tokens=NEW, stop=(stop,)), stream=parts.append)
    assert (found[0].text, found[0].finish) == (plain[0].text[: plain[0].text.find(stop)], "stop")
    assert "".join(parts) == prompts[0].text + found[0].text
    monkeypatch.setattr(library, "end_tokens", lambda _: frozenset([plain[0].tokens[4]]))
    end = plain[0].tokens.index(plain[0].tokens[4])
    ended = complete(loaded, prompts, Decoding(max_new_tokens=NEW))
    assert (ended[0].tokens, ended[0].finish) == (plain[0].tokens[: end + 1], "eos")
    assert ended[0].text == loaded.tokenizer.decode(plain[0].tokens[:end])
    again = complete(loaded, prompts, Decoding(max_new_tokens=NEW, ignore_eos=True))
    assert [one.tokens for one in again] == [one.tokens for one in plain]


def test_the_context_is_the_models(loaded: Loaded, tokenizer: TextTokenizer) -> None:
    prompt = Prompt(tokenizer.decode(list(range(1, 45))))
    tokens = len(tokenizer.encode(prompt.text))
    (one,) = complete(loaded, [prompt], Decoding(ignore_eos=True))
    assert len(one.tokens) == 48 - tokens
    with pytest.raises(MccError, match=rf"prompt 2: {tokens} tokens and 20 new ones .* the model's context of 48"):
        complete(loaded, [Prompt("a"), prompt], Decoding(max_new_tokens=20))
    with pytest.raises(MccError, match=r"48 tokens and a new one are more than the model's context of 48"):
        long = next(Prompt("a" * n) for n in range(40, 200) if len(tokenizer.encode("a" * n)) == 48)
        complete(loaded, [long], Decoding())


def test_tokens_that_end_a_text(loaded: Loaded, tokenizer_file: Path, tmp_path: Path) -> None:
    assert end_tokens(loaded) == {0}
    (tmp_path / "tokenizer.json").write_bytes(tokenizer_file.read_bytes())
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 9]}))
    other = dataclasses.replace(loaded, tokenizer=TextTokenizer(tmp_path / "tokenizer.json"))
    assert end_tokens(other) == {0, 7, 9}
