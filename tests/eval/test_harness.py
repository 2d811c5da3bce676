"""Our adapter gives the numbers of the harness's own adapter for transformers on the same weights."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from lm_eval.api.instance import Instance

from mcc.core.errors import MccError
from mcc.core.events import Silent
from mcc.eval.harness import MccLM
from mcc.eval.loading import Loaded
from mcc.eval.quiet import quiet

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def theirs(hf_model: Any, hf_tokenizer: Any) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=hf_model, tokenizer=hf_tokenizer, batch_size=3)


def requests(kind: str, arguments: list[tuple[Any, ...]]) -> list[Instance]:
    return [
        Instance(request_type=kind, doc={}, arguments=args, idx=0, metadata=("test", index, 1))
        for index, args in enumerate(arguments)
    ]


def pairs(passages: list[str]) -> list[tuple[str, str]]:
    """Contexts of all lengths, trailing spaces, empty contexts, long continuations, several answers to one context.

    No text is cut at two places: the reference's reuse of logits (lm_eval 0.4.13) scores such pairs wrongly.
    """
    found = [(text.rpartition(" ")[0], " " + text.rpartition(" ")[2]) for text in passages]
    found += [(text[: len(text) // 2], text[len(text) // 2 :][:60]) for text in passages[2:10]]
    found += [(text[:20] + "  ", "is it") for text in passages[:5]]
    found += [("", text[:40]) for text in passages[:5]]
    found += [("", "<|endoftext|>" + text[:40]) for text in passages[:2]]
    found += [("Which of these?", answer) for answer in (" a", " b", " this one", " that one")]
    return found


@pytest.mark.parametrize("batch_tokens", [1, 64, 100_000])
def test_log_likelihoods_are_those_of_transformers(
    loaded: Loaded, theirs: Any, passages: list[str], batch_tokens: int
) -> None:
    made = requests("loglikelihood", pairs(passages))
    ours = MccLM(loaded.model, loaded.tokenizer, batch_tokens).loglikelihood(made)
    with quiet():
        expected = theirs.loglikelihood(made, disable_tqdm=True)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in expected]
    assert [value for value, _ in ours] == pytest.approx([value for value, _ in expected], abs=TOLERANCE)


def test_greedy_continuations_are_seen_as_such(loaded: Loaded, theirs: Any, passages: list[str]) -> None:
    """Random targets are never greedy: build some that are, with the model's own predictions."""
    lm = MccLM(loaded.model, loaded.tokenizer)
    tokens = [lm.tok_encode(text)[:30] for text in passages]
    ours = lm._loglikelihood_tokens([(None, context, lm.scorer.next_tokens([context])) for context in tokens])
    assert all(greedy for _, greedy in ours)
    with quiet():
        expected = theirs._loglikelihood_tokens(
            [(None, context, lm.scorer.next_tokens([context])) for context in tokens], disable_tqdm=True
        )
    assert all(greedy for _, greedy in expected)


def test_rolling_log_likelihoods_are_those_of_transformers(loaded: Loaded, theirs: Any, corpus: str) -> None:
    made = requests("loglikelihood_rolling", [(corpus[:length],) for length in (1, 50, 300, 2000)])
    ours = MccLM(loaded.model, loaded.tokenizer, 200).loglikelihood_rolling(made)
    with quiet():
        expected = theirs.loglikelihood_rolling(made, disable_tqdm=True)
    # The harness adds up in float32; 2,000 characters are about 3,000 nats.
    assert ours == pytest.approx(expected, abs=TOLERANCE, rel=1e-6)


@pytest.mark.parametrize("options", [{"until": ["\n"]}, {"until": [" ", "e"]}, {"until": []}])
def test_greedy_generation_is_that_of_transformers(
    loaded: Loaded, theirs: Any, passages: list[str], options: dict[str, Any]
) -> None:
    made = requests("generate_until", [(text, {**options, "max_gen_toks": 12}) for text in passages[:12]])
    ours = MccLM(loaded.model, loaded.tokenizer, 300).generate_until(made)
    with quiet():
        expected = theirs.generate_until(made, disable_tqdm=True)
    assert ours == expected
    assert any(ours), "nothing was generated"


def test_generation_reads_each_token_once(loaded: Loaded, passages: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys and values of what was read are kept: after the prompts every pass reads one new token a row."""
    widths = []
    hidden = type(loaded.model).hidden

    def watched(self: Any, x: Any, *rest: Any) -> Any:
        widths.append(x.shape[1])
        return hidden(self, x, *rest)

    monkeypatch.setattr(type(loaded.model), "hidden", watched)
    made = requests("generate_until", [(text[:40], {"max_gen_toks": 12, "until": []}) for text in passages[:4]])
    MccLM(loaded.model, loaded.tokenizer).generate_until(made)
    assert widths[0] > 1 and widths[1:] == [1] * 11


def test_what_is_cut_is_told(loaded: Loaded, passages: list[str]) -> None:
    class Hearing(Silent):
        def warn(self, text: str) -> None:
            said.append(text)

    said: list[str] = []
    lm = MccLM(loaded.model, loaded.tokenizer, reporter=Hearing())
    long, short = max(passages, key=len), "It is"
    lm.loglikelihood(requests("loglikelihood", [(long, " a"), (short, " a")]))
    lm.generate_until(requests("generate_until", [(text, {"max_gen_toks": 2}) for text in (short, long, long)]))
    lm.generate_until(requests("generate_until", [(short, {"max_gen_toks": 2})]))
    told = "requests are longer than the model's context of 48: their beginnings are not read"
    assert said == [f"1 of 2 {told}", f"2 of 3 {told}"]


def test_generation_refuses_what_it_cannot_do(loaded: Loaded) -> None:
    lm = MccLM(loaded.model, loaded.tokenizer)
    with pytest.raises(MccError, match="sampling"):
        lm.generate_until(requests("generate_until", [("a", {"do_sample": True, "until": []})]))
    with pytest.raises(MccError, match="document 0: 48 new tokens leave no room"):
        lm.generate_until(requests("generate_until", [("a", {"max_gen_toks": 48})]))


def test_continuations_that_cannot_be_scored_are_refused(loaded: Loaded, corpus: str) -> None:
    lm = MccLM(loaded.model, loaded.tokenizer)
    with pytest.raises(MccError, match="longer than the model's context of 48"):
        lm.loglikelihood(requests("loglikelihood", [("a", corpus[:400])]))
    with pytest.raises(MccError, match="test, document 0: the continuation is empty"):
        lm.loglikelihood(requests("loglikelihood", [("a", "")]))


def test_generation_ends_with_the_text(loaded: Loaded, passages: list[str]) -> None:
    """A token that the model does choose is made the end of text: what was written stops there."""
    lm = MccLM(loaded.model, copy.copy(loaded.tokenizer))
    request = requests("generate_until", [(passages[0], {"max_gen_toks": 12})])
    context, written = lm.tok_encode(passages[0])[-36:], []
    for _ in range(12):
        written.append(*lm.scorer.next_tokens([context + written]))
    lm.tokenizer.eos_id = written[4]
    end = written.index(written[4])
    assert lm.generate_until(request) == [lm.tokenizer.decode(written[: end + 1])]
    assert end < 11
