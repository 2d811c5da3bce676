"""LAMBADA's two ways, against a plain loop over transformers' model."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mcc.core.errors import MccError
from mcc.eval.last_word import How, end_of, last_word_of
from mcc.eval.loading import Loaded
from mcc.eval.tokenizer import TextTokenizer


@pytest.mark.parametrize("how", ["strict", "non-strict"])
def test_accuracy_is_that_of_a_plain_loop(
    loaded: Loaded, hf_model: Any, passages: list[str], jsonl: Callable[..., Path], how: How
) -> None:
    total, correct = 0.0, 0
    for passage in passages:
        if how == "strict":
            before, _, word = passage.rpartition(" ")
            ids, target = loaded.tokenizer.encode(before), loaded.tokenizer.encode(" " + word)
        else:
            *ids, last = loaded.tokenizer.encode(passage)
            target = [last]
        whole = (ids + target)[-49:]
        with torch.no_grad():
            logits = hf_model(torch.tensor([whole[:-1]])).logits[0, -len(target) :]
        picked = logits.log_softmax(-1)[range(len(target)), target]
        total += float(picked.sum())
        correct += logits.argmax(-1).tolist() == target
    found = last_word_of(loaded, jsonl([{"text": text} for text in passages]), how, batch_tokens=200)
    assert (found.documents, found.correct) == (40, correct)
    assert math.log(found.perplexity) == pytest.approx(-total / 40, abs=1e-4)


def test_ends(tokenizer: TextTokenizer, loaded: Loaded, jsonl: Callable[..., Path]) -> None:
    span = end_of("one two  \n three ", "strict", tokenizer, 48)
    assert span is not None and tokenizer.decode(span.inputs[: -len(span.targets) + 1 or None]) == "one two"
    assert tokenizer.decode(span.targets) == " three"
    assert end_of("three", "strict", tokenizer, 48) is None
    with pytest.raises(MccError, match=r":2: a passage of one word"):
        last_word_of(loaded, jsonl([{"text": "a b"}, {"text": "a"}]))
    with pytest.raises(MccError, match="is empty"):
        last_word_of(loaded, jsonl([]))
    with pytest.raises(MccError, match=r":1: no text in field 'text' \(has 'body'\)"):
        last_word_of(loaded, jsonl([{"body": "a b"}]))
