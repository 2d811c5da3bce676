"""The next token's distribution is that of transformers' logits processors, and draws follow it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mcc.core.errors import UsageError
from mcc.eval.generation.decoding import Decoding, distribution, drawn, draws

TEXTS = [[3, 3, 7, 40], [1], [99, 0, 5, 6, 7, 8]]


def logits() -> Tensor:
    return 3 * torch.randn(3, 100, generator=torch.Generator().manual_seed(1))


def theirs(scores: Tensor, decoding: Decoding) -> Tensor:
    """The processors one by one, a row at a time: a row has no padding that is penalised."""
    from transformers import generation as hf

    steps: list[Any] = []
    if decoding.repetition_penalty != 1:
        steps.append(hf.RepetitionPenaltyLogitsProcessor(decoding.repetition_penalty))
    if decoding.temperature is not None:
        steps.append(hf.TemperatureLogitsWarper(decoding.temperature))
    if decoding.top_k is not None:
        steps.append(hf.TopKLogitsWarper(decoding.top_k))
    if decoding.top_p is not None:
        steps.append(hf.TopPLogitsWarper(decoding.top_p))
    rows = []
    for text, row in zip(TEXTS, scores.split(1), strict=True):
        for step in steps:
            row = step(torch.tensor([text]), row)
        rows.append(row)
    return torch.cat(rows).softmax(-1)


@pytest.mark.parametrize(
    "choices",
    [
        {"temperature": 1.0},
        {"temperature": 0.6},
        {"top_k": 1},
        {"top_k": 7},
        {"top_k": 1000},
        {"top_p": 0.9},
        {"top_p": 1e-4},
        {"top_p": 1.0},
        {"temperature": 1.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.3},
        {"temperature": 0.8, "repetition_penalty": 0.7},
    ],
    ids=str,
)
def test_probabilities_are_those_of_transformers(choices: dict[str, Any]) -> None:
    decoding = Decoding(**choices)
    found = distribution(logits(), TEXTS, decoding)
    torch.testing.assert_close(found, theirs(logits(), decoding), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.sum(-1), torch.ones(3))


def test_ties_of_the_last_token_stay() -> None:
    found = distribution(torch.tensor([[1.0, 2.0, 2.0, 0.0]]), [[0]], Decoding(top_k=1))
    assert found.tolist() == [[0.0, 0.5, 0.5, 0.0]]


def test_draws_follow_the_probabilities() -> None:
    """Evenly spaced numbers meet each token as often as its probability says, and none that has none."""
    probabilities = torch.tensor([0.0, 0.25, 0.5, 0.0, 0.125, 0.125, 0.0])
    numbers = [i / 800 for i in range(800)]
    tokens = drawn(probabilities.expand(800, 7), numbers)
    assert torch.bincount(tokens, minlength=7).tolist() == [0, 200, 400, 0, 100, 100, 0]
    assert int(drawn(probabilities[None], [1 - 2**-54])) == 5  # rounding does not lead to a token without probability


def test_every_sample_has_numbers_of_its_own() -> None:
    def numbers(*of: int) -> list[float]:
        return torch.rand(4, generator=draws(*of)).tolist()

    assert numbers(1, 0, 0) == numbers(1, 0, 0)
    found = {tuple(numbers(*of)) for of in [(1, 0, 0), (2, 0, 0), (1, 1, 0), (1, 0, 1), (1, 1, 1), (11, 0, 0)]}
    assert len(found) == 6


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"max_new_tokens": 0}, "--max-new-tokens 0 must be at least 1"),
        ({"temperature": -1.0}, "must not be negative"),
        ({"top_p": 0.0}, "--top-p 0.0 must be above 0"),
        ({"top_p": 1.5}, "at most 1"),
        ({"repetition_penalty": 0.0}, "must be above 0"),
        ({"stop": ("",)}, "before it begins"),
        ({"beams": 2, "top_k": 3}, "--top-k with --beams"),
        ({"temperature": 0.0, "top_k": 3}, "--top-k has no effect"),
        ({"num_samples": 2}, "are all the same"),
        ({"num_samples": 3, "beams": 2}, "--num-samples 3 of --beams 2"),
        ({"length_penalty": 2.0}, "is a beam search's"),
    ],
)
def test_what_makes_no_sense_is_refused(choices: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Decoding(**choices)
