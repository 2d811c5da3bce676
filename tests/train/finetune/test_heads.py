"""What fine-tuning takes from another model's checkpoint: its body, and its head where it is the same."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from mcc.ckpt.format import formats
from mcc.core.errors import UsageError
from mcc.models.base.config import ModelConfig
from mcc.train import checkpoint
from mcc.train.config import TrainConfig
from mcc.train.finetune.config import FinetuneConfig
from tests.ckpt.models import InMemory
from tests.ranks import run_ranks
from tests.train.toy import make_engine, toy_config

THREE = ModelConfig(
    family="bert", head="classification", num_labels=3, num_layers=1, hidden_size=16, num_attention_heads=2,
    seq_length=8, vocab_size=32, make_vocab_size_divisible_by=8,
)  # fmt: skip


def begun(config: TrainConfig, weights: Path) -> dict[str, Any]:
    engine = make_engine(config)
    checkpoint.load_weights(engine, weights)
    return {name: parameter.detach() for name, parameter in engine.parameters.items()}


def run_of(head: str, num_labels: int, finetune: bool = True) -> TrainConfig:
    model = dataclasses.replace(THREE, head=head, num_labels=num_labels)
    return dataclasses.replace(toy_config(), model=model, finetune=FinetuneConfig(enabled=finetune))


@pytest.mark.parametrize(
    ("head", "num_labels", "fresh"),
    [
        ("classification", 3, set()),
        ("classification", 2, {"top.classifier.weight", "top.classifier.bias"}),
        ("pretraining", 2, None),
    ],
)
def test_a_head_of_its_own_begins_afresh(tmp_path: Path, head: str, num_labels: int, fresh: set[str] | None) -> None:
    source = InMemory(THREE)
    formats.get("mcc-safetensors")().write(source, tmp_path / "weights")
    (found,) = run_ranks(begun, 1, run_of(head, num_labels), tmp_path / "weights")
    own = {name for name, tensor in found.items() if source.values.get(name) is None
           or source.values[name].shape != tensor.shape or not torch.equal(source.values[name], tensor)}  # fmt: skip
    if fresh is None:
        assert own == {name for name in found if name.startswith("top.") and "pooler" not in name}
    else:
        assert own == fresh
    assert not found["top.order.bias" if fresh is None else "top.pooler.bias"].isnan().any()


def test_without_finetuning_another_head_is_another_model(tmp_path: Path) -> None:
    formats.get("mcc-safetensors")().write(InMemory(THREE), tmp_path / "weights")
    with pytest.raises(UsageError, match="has num_labels = 3, but the run has 2"):
        checkpoint.check_same_model(THREE, run_of("classification", 2, finetune=False).model, tmp_path)
