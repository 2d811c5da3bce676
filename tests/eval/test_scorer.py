"""What spans share is computed once, and changes no score; answers that are known are not asked for again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mcc.core.errors import MccError
from mcc.eval import zero_shot as module
from mcc.eval.answers import FILE, Answers, content
from mcc.eval.loading import Loaded
from mcc.eval.packing import Span, pack
from mcc.eval.scorer import Scorer
from mcc.eval.zero_shot import zero_shot
from mcc.models.base.axes import Axes
from mcc.models.base.config import ModelConfig
from mcc.models.base.family import families

tokens = st.lists(st.integers(0, 2), min_size=1, max_size=12)


@given(st.lists(tokens, max_size=12), st.integers(1, 40))
@settings(deadline=None, max_examples=60)
def test_rows_hold_every_span_once(inputs: list[list[int]], most: int) -> None:
    spans = [Span(each, each[: 1 + len(each) // 2]) for each in inputs]
    rows = pack(spans, most)
    assert sorted(owner for row in rows for owner in row.owners) == list(range(len(spans)))
    for row in rows:
        assert row.length == len(row.tokens) == len(list(row.places()))
        assert len(row.spans) == 1 or row.length <= most
        places, reads = list(row.places()), row.reads()
        for branch, (owner, span) in enumerate(zip(row.owners, row.spans, strict=True), 1):
            assert span == spans[owner]
            mine = {at: i for i, (other, at) in enumerate(places) if other in (0, branch)}
            assert [row.tokens[mine[at]] for at in range(len(span.inputs))] == span.inputs
            wanted = range(len(span.inputs) - len(span.targets), len(span.inputs))
            assert [next(reads) for _ in span.targets] == [mine[at] for at in wanted]
    assert sum(row.length for row in rows) <= sum(map(len, inputs))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_sharing_changes_no_score(family: str) -> None:
    """Learned and rotary positions, heads that share keys, rows of one span beside rows of many."""
    config = ModelConfig(
        family=family,
        num_layers=2,
        hidden_size=32,
        num_attention_heads=4,
        num_query_groups=2,
        vocab_size=50,
        seq_length=40,
    )
    torch.manual_seed(0)
    model = families.get(family)().build(config, Axes(), range(2)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    numbers = torch.randint(0, 50, (7, 40)).tolist()
    spans = [Span(each[:length], each[length - 3 : length]) for each in numbers for length in (5, 20, 40)]
    spans += [Span(each[:15] + other[:9], other[:9]) for each in numbers[:3] for other in numbers]
    spans += [Span(numbers[0][:15], [target]) for target in range(4)]  # the same inputs, other targets
    plain, shared = Scorer(model, 300, sharing=False), Scorer(model, 300)
    one, other = (dict(scorer.score(spans)) for scorer in (plain, shared))
    assert [other[i].log_likelihood for i in range(len(spans))] == pytest.approx(
        [one[i].log_likelihood for i in range(len(spans))], abs=1e-4
    )
    assert [other[i].is_greedy for i in range(len(spans))] == [one[i].is_greedy for i in range(len(spans))]
    read = sum(row.length for row in pack(spans, 300))
    assert read < 0.75 * sum(len(span.inputs) for span in spans)


def test_an_interrupted_evaluation_goes_on(
    loaded: Loaded,
    passages: list[str],
    jsonl: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "load", lambda *_, **__: loaded)
    file, out = jsonl([{"text": text} for text in passages]), tmp_path / "scores"
    asked: list[int] = []
    score = Scorer.score

    def counting(self: Scorer, spans: Any) -> Any:
        asked.append(len(spans))
        for count, found in enumerate(score(self, spans)):
            if len(asked) == 1 and count == 33:
                raise KeyboardInterrupt
            yield found

    whole = zero_shot("tiny", ["lambada"], {"lambada": file})
    monkeypatch.setattr(Scorer, "score", counting)
    with pytest.raises(KeyboardInterrupt):
        zero_shot("tiny", ["lambada"], {"lambada": file}, out=out, batch_tokens=1)
    with (out / FILE).open("a") as cache:
        cache.write('{"key": "cut sh')
    found = zero_shot("tiny", ["lambada"], {"lambada": file}, out=out)
    again = zero_shot("tiny", ["lambada"], {"lambada": file}, out=out)
    assert asked == [40, 7, 0]
    assert found.value("lambada", "perplexity") == pytest.approx(whole.value("lambada", "perplexity"), rel=1e-4)
    assert again.results == found.results
    assert len((out / FILE).read_text().splitlines()) == 41  # the line that was cut short among them


def test_answers_are_of_one_model(loaded: Loaded, tmp_path: Path) -> None:
    first = content(loaded.model)
    name, parameter = next(iter(loaded.model.named_parameters()))
    with torch.no_grad():
        before = parameter[0].clone()
        parameter[0] += 1.0
        other = content(loaded.model)
        parameter[0] = before
    assert first != other and content(loaded.model) == first, name
    file = tmp_path / "x" / FILE
    answers = Answers(file, first)
    answers.add(answers.key("log-likelihood", [1], [2]), [-1.5, True])
    answers.close()
    assert Answers(file, first).get(Answers(None, first).key("log-likelihood", [1], [2])) == [-1.5, True]
    assert Answers(file, other).get(Answers(None, other).key("log-likelihood", [1], [2])) is None
    assert [set(json.loads(line)) for line in file.read_text().splitlines()] == [{"key", "value"}]
    with pytest.raises(MccError, match="cannot write"):
        Answers(file / "below", first)
