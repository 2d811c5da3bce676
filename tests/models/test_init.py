"""Fresh weights: their spread, the vocabulary's padding, and memory taken once."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mcc.models.base.axes import Axes
from mcc.models.base.config import ModelConfig
from mcc.models.base.family import count_parameters, families
from mcc.models.base.init import allocate, initialize
from mcc.models.base.presets import preset
from tests.models.live import LiveBytes

SIZES = ModelConfig(num_layers=8, hidden_size=64, num_attention_heads=4, seq_length=32, vocab_size=100)


def built(config: ModelConfig, axes: Axes | None = None) -> torch.nn.Module:
    with torch.device("meta"):
        return families.get(config.family)().build(config, axes or Axes(), range(config.num_layers))


@pytest.mark.parametrize("family", families.names())
def test_spread_by_the_table(family: str) -> None:
    config = dataclasses.replace(SIZES, family=family, init_std=0.03)
    plugin = families.get(family)()
    stage = built(config)
    assert all(parameter.is_meta for parameter in stage.parameters())
    initialize(stage, plugin, seed=1)
    spreads = {"zeros": 0.0, "ones": 0.0, "normal": 0.03, "scaled": 0.03 / math.sqrt(16)}
    for name, parameter in stage.named_parameters():
        row = plugin.row(name)
        assert isinstance(parameter, torch.nn.Parameter)
        assert parameter.requires_grad and not parameter.is_meta
        values = parameter[:100] if row.shape[0] == "V" else parameter
        assert float(values.detach().std()) == pytest.approx(spreads[row.init], rel=0.1), name
        if row.shape[0] == "V":
            assert parameter.shape[0] == 128 and not parameter[100:].any(), name
        if row.init == "ones":
            assert bool((parameter == 1).all())
    scaled = any(plugin.row(name).init == "scaled" for name in dict(stage.named_parameters()))
    assert scaled == (plugin.blueprint.order != "post")


def test_the_same_whatever_the_layout_and_wherever_it_was_built() -> None:
    class Second(Axes):
        size, rank = 2, 1

    plugin = families.get("gpt2")()
    whole = built(SIZES)
    real = plugin.build(SIZES, Axes(), range(8))
    half = built(SIZES, Second())
    for stage in (whole, real, half):
        initialize(stage, plugin, seed=1)  # type: ignore[arg-type]
    parameters = dict(whole.named_parameters())
    for name, parameter in real.named_parameters():
        assert torch.equal(parameter, parameters[name]), name
    for name, parameter in half.named_parameters():
        row = plugin.row(name)
        if row.tp_dim is None or row.shape[0] == "V":
            continue
        assert torch.equal(parameter, parameters[name].chunk(2, row.tp_dim)[1]), name
        assert parameter.untyped_storage().nbytes() == parameter.nbytes, f"{name} keeps the whole alive"


def test_a_large_model_takes_its_memory_once() -> None:
    """Tensors without data stand for 8 billion parameters; what lives is counted."""
    config = preset("llama-3.1-8b")
    plugin = families.get(config.family)()
    whole = 4 * count_parameters(config)
    with FakeTensorMode(), LiveBytes() as live:
        stage = built(config)
        assert live.peak == 0
        initialize(stage, plugin, seed=1)  # type: ignore[arg-type]
        largest = max(parameter.nbytes for parameter in stage.parameters())
        assert live.now == whole  # 128,256 tokens need no padding
        assert live.peak <= whole + largest < 1.07 * whole


def test_memory_for_a_checkpoint_to_fill() -> None:
    stage = built(SIZES)
    allocate(stage, dtype=torch.bfloat16)  # type: ignore[arg-type]
    assert {parameter.dtype for parameter in stage.parameters()} == {torch.bfloat16}
    assert not any(parameter.is_meta for parameter in stage.parameters())
