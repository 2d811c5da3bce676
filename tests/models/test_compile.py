"""Layers can be compiled whole."""

from __future__ import annotations

import pytest
import torch

from mcc.models.base.axes import Axes
from mcc.models.base.config import ModelConfig
from mcc.models.base.family import families
from mcc.models.base.init import initialize


@pytest.mark.parametrize("family", families.names())
def test_a_layer_is_one_graph(family: str) -> None:
    """Nothing in a layer without dropout breaks the graph; what follows the tracing is not run: the eager backend."""
    config = ModelConfig(
        family=family, num_layers=2, hidden_size=32, num_attention_heads=4, num_query_groups=2, seq_length=16,
        vocab_size=61,
    )  # fmt: skip
    plugin = families.get(family)()
    stage = plugin.build(config, Axes(), range(2), last=False)
    initialize(stage, plugin, seed=1)
    tokens = torch.arange(32).view(2, 16)
    expected = stage(tokens)
    for layer in stage.layers.values():
        layer.compile(backend="eager", fullgraph=True)
    found = stage(tokens)
    assert torch.equal(found, expected)
    found.sum().backward()
