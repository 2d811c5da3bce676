"""The Transformer as GPT-2, against transformers' own with the same weights copied by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mcc.core.errors import MccError, UsageError
from mcc.models.base.axes import Axes
from mcc.models.base.config import ModelConfig
from mcc.models.base.family import families, global_shape
from mcc.models.base.forms import FORMS

SIZES = [
    {"vocab_size": 61, "seq_length": 12, "hidden_size": 24, "num_layers": 3, "num_attention_heads": 3},
    {"vocab_size": 128, "seq_length": 7, "hidden_size": 16, "num_layers": 1, "num_attention_heads": 1},
    {"vocab_size": 9, "seq_length": 5, "hidden_size": 8, "num_layers": 2, "num_attention_heads": 8},
]
SIZES.append(SIZES[2] | {"ffn_hidden_size": 12})


def pair(sizes: dict[str, int]) -> tuple[ModelConfig, torch.nn.Module, Any]:
    """(configuration, our model, transformers' model) with the same random weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = ModelConfig(**sizes)  # type: ignore[arg-type]
    family = families.get("gpt2")()
    torch.manual_seed(0)
    theirs = GPT2LMHeadModel(GPT2Config(**family.to_hf_config(config), bos_token_id=None, eos_token_id=None)).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ours = family.build(config, Axes(), range(config.num_layers))
    state, own = theirs.state_dict(), dict(ours.named_parameters())
    with torch.no_grad():
        for name, row, layer in family.table(config):
            tensor = FORMS[row.hf_form].back(state[row.hf.format(i=layer)], config)
            own[name].zero_()
            own[name][: tensor.shape[0]].copy_(tensor)
    return config, ours, theirs


@pytest.mark.parametrize("sizes", SIZES)
def test_logits_and_gradients_equal_transformers(sizes: dict[str, int]) -> None:
    config, ours, theirs = pair(sizes)
    tokens = torch.randint(0, config.vocab_size, (3, config.seq_length), generator=torch.Generator().manual_seed(2))
    expected = theirs(tokens).logits
    found = ours(tokens)[..., : config.vocab_size]
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)

    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(3)) / expected.numel()
    (expected * weights).sum().backward()
    (found * weights).sum().backward()
    family = families.get("gpt2")()
    gradients = {name: p.grad for name, p in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        row = family.row(name)
        layer = next((int(part) for part in name.split(".") if part.isdigit()), None)
        grad = FORMS[row.hf_form].back(gradients[row.hf.format(i=layer)], config)
        torch.testing.assert_close(parameter.grad[: grad.shape[0]], grad, atol=1e-5, rtol=1e-3, msg=name)


@torch.no_grad()
def test_attention_is_causal() -> None:
    _, ours, _ = pair(SIZES[0])
    tokens = torch.zeros(1, 12, dtype=torch.long)
    changed = tokens.clone()
    changed[0, 6] = 5
    a, b = ours(tokens), ours(changed)
    assert torch.equal(a[:, :6], b[:, :6])
    assert not torch.equal(a[:, 6], b[:, 6])


@torch.no_grad()
def test_stages_in_a_row_are_the_whole_model() -> None:
    config, whole, _ = pair(SIZES[0])
    family = families.get("gpt2")()
    stages = [
        family.build(config, Axes(), layers, first=layers.start == 0, last=layers.stop == 3)
        for layers in (range(1), range(1, 3))
    ]
    state = whole.state_dict()
    for stage in stages:
        assert set(stage.state_dict()) <= set(state)
        stage.load_state_dict({name: state[name] for name in stage.state_dict()})
    tokens = torch.randint(0, 61, (2, 12))
    x = tokens
    for stage in stages:
        x = stage(x)
    torch.testing.assert_close(x, whole(tokens), atol=0, rtol=0)


def test_table_is_the_model() -> None:
    config = ModelConfig(**SIZES[3])  # type: ignore[arg-type]
    family = families.get("gpt2")()
    model = family.build(config, Axes(), range(config.num_layers))
    rows = config.padded_vocab_size(1)
    table = {name: global_shape(row, config, rows) for name, row, _ in family.table(config)}
    assert {name: tuple(p.shape) for name, p in model.named_parameters()} == table


def test_configuration_round_trip() -> None:
    family = families.get("gpt2")()
    for sizes in SIZES:
        config = ModelConfig(**sizes)  # type: ignore[arg-type]
        assert family.from_hf_config(family.to_hf_config(config)) == config
    with pytest.raises(MccError, match="tie_word_embeddings = False is not GPT-2's"):
        family.from_hf_config({"vocab_size": 3, "tie_word_embeddings": False})


def test_tensor_parallelism_must_divide_the_heads() -> None:
    class Three(Axes):
        size = 3

    config = ModelConfig(vocab_size=8, num_attention_heads=4, hidden_size=24)
    with pytest.raises(UsageError, match="tp = 3 does not divide num_attention_heads = 4"):
        families.get("gpt2")().build(config, Three(), range(1))
    config = ModelConfig(vocab_size=8, num_attention_heads=3, hidden_size=24, ffn_hidden_size=32)
    with pytest.raises(UsageError, match="tp = 3 does not divide ffn_hidden_size = 32"):
        families.get("gpt2")().build(config, Three(), range(1))


@pytest.mark.parametrize(
    "values",
    [
        {"num_layers": 0},
        {"hidden_size": 30, "num_attention_heads": 4},
        {"vocab_size": -1},
        {"make_vocab_size_divisible_by": 0},
    ],
)
def test_impossible_shapes_are_refused(values: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        ModelConfig(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("tp", [1, 2, 3, 8])
def test_padding_is_the_smallest_that_divides(tp: int) -> None:
    for vocab in (1, 127, 128, 129, 50257):
        padded = ModelConfig(vocab_size=vocab).padded_vocab_size(tp)
        assert padded % (128 * tp) == 0
        assert 0 <= padded - vocab < 128 * tp
