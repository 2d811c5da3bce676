"""Lower precision: hidden states in the compute dtype, parameters, their gradients and the loss in float32."""

from __future__ import annotations

import dataclasses
import sys
import types
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from mcc.models.base import layers
from mcc.models.base.axes import Axes
from mcc.models.base.blueprint import Blueprint
from mcc.models.base.config import ModelConfig
from mcc.models.base.extras import Extras, Randomness
from mcc.models.base.family import families
from mcc.models.base.init import initialize
from mcc.models.base.layers import Norm
from mcc.models.base.loss import cross_entropy
from mcc.models.base.transformer import Stage

SIZES = ModelConfig(
    num_layers=2, hidden_size=32, num_attention_heads=4, seq_length=16, vocab_size=61, hidden_dropout=0.1
)


def built(config: ModelConfig, last: bool = True) -> Stage:
    family = families.get(config.family)()
    stage = family.build(config, Axes(), range(config.num_layers), last=last)
    initialize(stage, family, seed=1)
    return stage


@pytest.mark.parametrize("family", families.names())
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_compute_dtype(family: str, dtype: torch.dtype) -> None:
    stage = built(dataclasses.replace(SIZES, family=family))
    tokens = torch.randint(0, 61, (2, 16), generator=torch.Generator().manual_seed(1))
    exact = stage(tokens).detach()
    stage.compute_dtype = dtype
    assert stage.hidden(tokens).dtype == dtype
    rough = stage(tokens).detach()
    assert rough.dtype == dtype
    steps = 2 ** (-8 if dtype == torch.bfloat16 else -11)
    assert float((rough - exact).norm() / exact.norm()) < 8 * steps
    loss = cross_entropy(stage(tokens, Extras(random=Randomness(1, 1, 1))), tokens, Axes(), 61).mean()
    assert loss.dtype == torch.float32
    loss.backward()
    for name, parameter in stage.named_parameters():
        assert parameter.dtype == torch.float32, name
        assert parameter.grad is not None and parameter.grad.dtype == torch.float32, name
        assert bool(parameter.grad.isfinite().all()), name


@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_norms_add_up_in_float32(norm: Any) -> None:
    """A sum of 4096 squares in bfloat16 would stop growing at 256."""
    module = Norm(ModelConfig(hidden_size=4096), Blueprint(norm=norm))
    torch.nn.init.ones_(module.weight)
    if module.bias is not None:
        torch.nn.init.zeros_(module.bias)
    x = torch.randn(4, 4096, generator=torch.Generator().manual_seed(1)).bfloat16()
    found = module(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), module(x.float()), atol=2**-7, rtol=2**-7)


def test_apex_is_used_on_its_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for NVIDIA apex: the calls that its functions take, by its signatures."""
    called = []

    def fused_layer_norm_affine(input, weight, bias, normalized_shape, eps=1e-6, memory_efficient=False):  # type: ignore[no-untyped-def]
        called.append("layer")
        return F.layer_norm(input, normalized_shape, weight, bias, eps)

    def fused_rms_norm_affine(input, weight, normalized_shape, eps=1e-6, memory_efficient=False):  # type: ignore[no-untyped-def]
        called.append("rms")
        return F.rms_norm(input, normalized_shape, weight, eps)

    module = types.ModuleType("apex.normalization.fused_layer_norm")
    module.fused_layer_norm_affine = fused_layer_norm_affine  # type: ignore[attr-defined]
    module.fused_rms_norm_affine = fused_rms_norm_affine  # type: ignore[attr-defined]
    for name in ("apex", "apex.normalization"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    layers._apex.cache_clear()
    fused = layers._apex()
    assert fused is not None
    x, weight, bias = torch.randn(3, 8), torch.randn(8), torch.randn(8)
    torch.testing.assert_close(fused(False, x, weight, bias, 1e-5), F.layer_norm(x, (8,), weight, bias, 1e-5))
    torch.testing.assert_close(fused(True, x, weight, None, 1e-5), F.rms_norm(x, (8,), weight, 1e-5))
    assert called == ["layer", "rms"]
    layers._apex.cache_clear()
