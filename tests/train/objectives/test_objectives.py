"""Every objective adds up: micro-batches and replicas give the whole batch's loss. And each is what it says."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mcc.core.errors import UsageError
from mcc.models.base.axes import Axes
from mcc.models.base.config import ModelConfig
from mcc.train.batch import Batch, split
from mcc.train.objective import Objective, Output, objective_of, objectives

S, R, T, V, C = 8, 3, 6, 16, 4
MODEL = ModelConfig(hidden_size=8, num_attention_heads=1, seq_length=T, vocab_size=13, num_labels=C)


def case(name: str) -> tuple[Objective, Output, Batch, ModelConfig]:
    """An objective with a batch and outputs for it."""
    generator = torch.Generator().manual_seed(0)
    model = dataclasses.replace(MODEL, head="pretraining" if name == "masked-lm" else "lm")
    batch: Batch = {"tokens": torch.zeros(S, T, dtype=torch.long)}
    labels = torch.randint(0, 2, (S,), generator=generator)
    weights = torch.tensor([1.0] * (S - 2) + [0.0] * 2)
    output: Output = torch.randn(S, T, V, generator=generator)
    if name in ("causal-lm", "masked-lm"):
        batch["targets"] = torch.randint(0, 13, (S, T), generator=generator)
        batch["weights"] = torch.randint(0, 2, (S, T), generator=generator).float()
    if name == "masked-lm":
        batch |= {"labels": labels, "label_weights": weights}
        output = (output, torch.randn(S, 2, generator=generator))  # type: ignore[assignment]
    if name == "classification":
        batch |= {"labels": labels, "label_weights": weights}
        output = torch.randn(S, C, generator=generator)
    if name == "multiple-choice":
        batch = {"tokens": torch.zeros(S * R, T, dtype=torch.long), "labels": labels, "label_weights": weights}
        output = torch.randn(S * R, 1, generator=generator)
    return objectives.get(name)(), output, batch, model


def chunks(output: Output, count: int) -> list[Output]:
    if isinstance(output, Tensor):
        return list(output.chunk(count))
    return list(zip(*(part.chunk(count) for part in output), strict=True))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", objectives.names())
def test_micro_batches_add_up(name: str) -> None:
    objective, output, batch, model = case(name)
    parts = len(objective.parts(model))
    whole, weight = objective.loss(output, batch, Axes(), model), objective.weight(batch, model)
    assert whole.shape == weight.shape == (parts,) and whole.dtype == torch.float32
    for count in (2, 4, 8):
        pieces = list(zip(chunks(output, count), split(batch, count), strict=True))
        torch.testing.assert_close(sum(objective.loss(o, b, Axes(), model) for o, b in pieces), whole)
        torch.testing.assert_close(sum(objective.weight(b, model) for _, b in pieces), weight)
    predictions = objective.predictions(output, batch)
    assert predictions is None or (predictions.shape[0] == S and predictions.dtype == torch.float32)


def test_next_tokens() -> None:
    objective, output, batch, model = case("causal-lm")
    logits = output[..., :13].reshape(-1, 13)  # type: ignore[call-overload,index]
    losses = F.cross_entropy(logits, batch["targets"].flatten(), reduction="none") * batch["weights"].flatten()
    torch.testing.assert_close(objective.loss(output, batch, Axes(), model), losses.sum().reshape(1))
    del batch["weights"]
    assert objective.weight(batch, model).item() == S * T


def test_masked_tokens_and_pairs() -> None:
    objective, output, batch, model = case("masked-lm")
    assert objective.parts(model) == ("lm_loss", "pair_loss")
    pair = F.cross_entropy(output[1][: S - 2], batch["labels"][: S - 2], reduction="sum")
    torch.testing.assert_close(objective.loss(output, batch, Axes(), model)[1], pair)
    assert objective.weight(batch, model).tolist() == [batch["weights"].sum().item(), S - 2]
    alone = dataclasses.replace(model, head="lm")
    assert objective.parts(alone) == ("loss",)
    assert objective.loss(output[0], batch, Axes(), alone).shape == objective.weight(batch, alone).shape == (1,)


def test_classes_and_numbers() -> None:
    objective, output, batch, model = case("classification")
    assert isinstance(output, Tensor)
    expected = F.cross_entropy(output[: S - 2], batch["labels"][: S - 2], reduction="sum")
    torch.testing.assert_close(objective.loss(output, batch, Axes(), model)[0], expected)
    number = output[:, :1]
    batch["labels"] = torch.arange(S).float()
    squared = ((number[: S - 2, 0] - batch["labels"][: S - 2]) ** 2).sum()
    torch.testing.assert_close(objective.loss(number, batch, Axes(), model)[0], squared)


def test_choices() -> None:
    objective, output, batch, model = case("multiple-choice")
    assert isinstance(output, Tensor)
    logits = output.view(S, R)
    expected = F.cross_entropy(logits[: S - 2], batch["labels"][: S - 2], reduction="sum")
    torch.testing.assert_close(objective.loss(output, batch, Axes(), model)[0], expected)
    assert torch.equal(objective.predictions(output, batch), logits)


def test_the_objective_of_a_head() -> None:
    def of(family: str, head: str) -> str:
        return objective_of(ModelConfig(family=family, head=head))

    assert [of("gpt2", "lm"), of("llama", "lm")] == ["causal-lm", "causal-lm"]
    assert [of("bert", head) for head in ("lm", "pretraining")] == ["masked-lm", "masked-lm"]
    assert [of("bert", head) for head in ("classification", "multiple-choice")] == ["classification", "multiple-choice"]
    with pytest.raises(UsageError, match="head pooler has no objective"):
        of("bert", "pooler")
