"""Every family against transformers' own model of it: outputs, gradients, configuration, table."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from mcc.core.errors import MccError, UsageError
from mcc.models.base.axes import Axes
from mcc.models.base.config import ModelConfig
from mcc.models.base.family import families, global_shape
from tests.models.pairs import assert_same_outputs_and_gradients, pair

SIZES = ModelConfig(
    num_layers=2, hidden_size=24, num_attention_heads=6, ffn_hidden_size=40, seq_length=12, vocab_size=61
)


def changed(**values: object) -> ModelConfig:
    return dataclasses.replace(SIZES, **values)  # type: ignore[arg-type]


MODELS = {
    "gpt2": changed(),
    "gpt2, one head": changed(num_layers=1, num_attention_heads=1, ffn_hidden_size=None, vocab_size=128, seq_length=7),
    "gpt2, more positions": changed(max_position_embeddings=20),
    "gpt2, untied": changed(untie_embeddings_and_output_weights=True),
    "llama": changed(family="llama", rotary_base=500.0),
    "llama, untied": changed(family="llama", untie_embeddings_and_output_weights=True),
    "llama, 2 groups": changed(family="llama", num_query_groups=2, layernorm_epsilon=1e-6),
    "llama, 1 group": changed(family="llama", num_query_groups=1, untie_embeddings_and_output_weights=True),
    "llama, wide heads": changed(family="llama", num_query_groups=3, kv_channels=10),
    "llama, stretched": changed(
        family="llama", rope_scaling_factor=8.0, rope_original_positions=32, hidden_size=48, rotary_base=100.0
    ),
    "mistral": changed(
        family="mistral", num_query_groups=2, sliding_window=12, untie_embeddings_and_output_weights=True
    ),
    "mistral, no window": changed(family="mistral", rotary_base=1e6, kv_channels=6),
    "qwen2": changed(family="qwen2", num_query_groups=2, layernorm_epsilon=1e-6),
    "qwen2, untied": changed(family="qwen2", untie_embeddings_and_output_weights=True, kv_channels=6),
    "opt": changed(family="opt"),
    "opt, untied": changed(family="opt", untie_embeddings_and_output_weights=True, max_position_embeddings=20),
    "gpt-neox": changed(family="gpt-neox", hidden_size=48, rotary_percent=0.25, rotary_base=500.0),
    "gpt-neox, untied": changed(family="gpt-neox", untie_embeddings_and_output_weights=True),
    **{
        f"roberta, {head}": changed(family="roberta", head=head, layernorm_epsilon=1e-5, num_labels=3, num_tokentypes=1)
        for head in families.get("roberta").blueprint.heads
    },
    **{
        f"{family}, {head}": changed(family=family, head=head, layernorm_epsilon=1e-12, num_labels=3)
        for family in ("bert", "megatron-bert")
        for head in families.get(family).blueprint.heads
    },
}  # fmt: skip


def test_every_family_is_here() -> None:
    assert {config.family for config in MODELS.values()} == set(families.names())
    for family in families.names():
        heads = {config.head for config in MODELS.values() if config.family == family}
        assert heads == set(families.get(family).blueprint.heads) == set(families.get(family).hf_classes)


@pytest.mark.parametrize("name", MODELS)
def test_outputs_and_gradients_equal_transformers(name: str) -> None:
    ours, theirs = pair(MODELS[name])
    assert_same_outputs_and_gradients(MODELS[name], ours, theirs)


@pytest.mark.parametrize("name", MODELS)
def test_table_is_the_model(name: str) -> None:
    config = MODELS[name]
    family = families.get(config.family)()
    model = family.build(config, Axes(), range(config.num_layers))
    table = {key: global_shape(row, config, config.padded_vocab_size()) for key, row, _ in family.table(config)}
    assert {key: tuple(p.shape) for key, p in model.named_parameters()} == table


@pytest.mark.parametrize("name", MODELS)
def test_configuration_round_trip(name: str) -> None:
    """Through the file as well: what transformers writes of what we write."""
    import transformers

    config = MODELS[name]
    family = families.get(config.family)()
    values = json.loads(json.dumps(family.to_hf_config(config)))
    written = transformers.AutoConfig.for_model(**values).to_dict() | {"architectures": values["architectures"]}
    # Files tell of classes where there are some, and of all positions.
    kept = config if config.head == "classification" else dataclasses.replace(config, num_labels=2)
    kept = dataclasses.replace(kept, seq_length=config.positions, max_position_embeddings=None)
    for there in (values, written):
        assert family.from_hf_config(there) == kept


@pytest.mark.parametrize("name", ["gpt2", "llama, 2 groups"])
@torch.no_grad()
def test_attention_is_causal(name: str) -> None:
    ours, _ = pair(MODELS[name])
    tokens = torch.zeros(1, 12, dtype=torch.long)
    changed = tokens.clone()
    changed[0, 6] = 5
    a, b = ours(tokens), ours(changed)
    torch.testing.assert_close(a[:, :6], b[:, :6], atol=0, rtol=0)
    assert not torch.equal(a[:, 6], b[:, 6])


@torch.no_grad()
def test_more_tokens_than_a_sliding_window_are_refused() -> None:
    config = changed(family="mistral", sliding_window=8)
    model, _ = pair(config)
    assert model(torch.zeros(1, 8, dtype=torch.long)).shape == (1, 8, 128)
    with pytest.raises(MccError, match="9 tokens are more than the model's sliding window of 8"):
        model(torch.zeros(1, 9, dtype=torch.long))


@pytest.mark.parametrize("name", ["llama, 2 groups", "gpt-neox", "bert, pretraining", "megatron-bert, lm"])
@torch.no_grad()
def test_stages_in_a_row_are_the_whole_model(name: str) -> None:
    config = dataclasses.replace(MODELS[name], num_layers=3)
    family = families.get(config.family)()
    whole, _ = pair(config)
    state = whole.state_dict()
    x = torch.randint(0, config.vocab_size, (2, config.seq_length))
    expected = whole(x)
    held: set[str] = set()
    for layers in (range(1), range(1, 2), range(2, 3)):
        stage = family.build(config, Axes(), layers, first=layers.start == 0, last=layers.stop == 3)
        assert set(stage.state_dict()) <= set(state)
        held |= set(stage.state_dict())
        stage.load_state_dict({key: state[key] for key in stage.state_dict()})
        x = stage(x)
    torch.testing.assert_close(x, expected, atol=0, rtol=0)
    assert held == set(state)


def test_a_model_without_an_output_layer_has_the_embedding_once() -> None:
    config = MODELS["bert, classification"]
    family = families.get("bert")()
    assert not family.tied(config)
    last = family.build(config, Axes(), range(1, 2), first=False, last=True)
    assert "embedding.tokens.weight" not in dict(last.named_parameters())
    assert family.tied(MODELS["bert, lm"])
    assert not family.tied(MODELS["llama, untied"])


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("gpt2", {"activation_function": "relu"}, "activation_function = 'relu' is not GPT-2's"),
        ("llama", {"attention_bias": True}, "attention_bias = True is not llama's"),
        ("llama", {"rope_scaling": {"type": "yarn", "factor": 2.0}}, "rotary positions of type 'yarn'"),
        ("llama", {"partial_rotary_factor": 0.5}, "llama turns whole heads, not 0.5 of them"),
        ("mistral", {"hidden_act": "gelu"}, "hidden_act = 'gelu' is not mistral's"),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}, "layers from 1 on see 8"),
        ("opt", {"do_layer_norm_before": False}, r"the post-LN OPT \(350m\) is no family here"),
        ("opt", {"word_embed_proj_dim": 12}, "word_embed_proj_dim = 12 is not OPT's"),
        ("gpt-neox", {"use_parallel_residual": False}, "use_parallel_residual = False is not GPT-NeoX's"),
        ("roberta", {"pad_token_id": 0}, "pad_token_id = 0 is not RoBERTa's"),
        ("bert", {"hidden_act": "relu"}, "hidden_act = 'relu' is not bert's"),
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type = 'relative_key'"),
        ("bert", {"architectures": ["BertForTokenClassification"]}, "no model here is a BertForTokenClassification"),
        ("megatron-bert", {"tie_word_embeddings": False}, "tie_word_embeddings = False is not megatron-bert's"),
    ],
)
def test_what_a_family_does_not_have_is_refused(family: str, change: dict[str, object], message: str) -> None:
    plugin = families.get(family)()
    with pytest.raises(MccError, match=message):
        plugin.from_hf_config(plugin.to_hf_config(changed(family=family)) | change)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"family": "gpt2", "head": "pretraining"}, "unknown head of family gpt2 'pretraining'"),
        ({"family": "bert", "head": "poolr"}, "did you mean 'pooler'"),
        ({"family": "bert", "untie_embeddings_and_output_weights": True}, "family bert has no output layer of its own"),
        ({"family": "gpt-neox", "rotary_percent": 0.8}, "an even number of channels a head, not 3"),
        ({"family": "llama", "sliding_window": 8}, "family llama has no sliding window"),
        ({"family": "llama", "kv_channels": 5}, "an even number of channels"),
    ],
)
def test_heads_and_options_are_checked(values: dict[str, object], message: str) -> None:
    config = changed(**values)
    with pytest.raises(UsageError, match=message):
        families.get(config.family)().build(config, Axes(), range(1))


@pytest.mark.parametrize(
    ("tp", "values", "message"),
    [
        (3, {"num_attention_heads": 4}, "tp = 3 does not divide num_attention_heads = 4"),
        (3, {"num_attention_heads": 3, "ffn_hidden_size": 32}, "tp = 3 does not divide ffn_hidden_size = 32"),
        (
            2,
            {"num_attention_heads": 9, "num_query_groups": 3, "hidden_size": 576},
            "tp = 2 does not divide num_attention_heads = 9, nor num_query_groups = 3",
        ),
        (
            4,
            {"num_attention_heads": 8, "num_query_groups": 2, "hidden_size": 48},
            "tp = 4 divides num_attention_heads = 8 but not num_query_groups = 2",
        ),
    ],
)
def test_tensor_parallelism_must_divide_the_heads(tp: int, values: dict[str, int], message: str) -> None:
    class Several(Axes):
        size = tp

    with pytest.raises(UsageError, match=message) as refused:
        families.get("llama")().build(changed(family="llama", **values), Several(), range(1))
    if "num_query_groups" in message:
        assert refused.value.hint is not None
        assert refused.value.hint.endswith("tp can be 1, 3" if tp == 2 else "tp can be 1, 2")


@pytest.mark.parametrize(
    "values",
    [
        {"num_layers": 0},
        {"hidden_size": 30, "num_attention_heads": 4},
        {"vocab_size": -1},
        {"make_vocab_size_divisible_by": 0},
        {"num_query_groups": 4},
        {"num_query_groups": 0},
        {"kv_channels": -1},
        {"seq_length": 20, "max_position_embeddings": 12},
        {"hidden_dropout": 1.0},
        {"attention_dropout": -0.1},
        {"sliding_window": 0},
        {"rotary_percent": 0.0},
    ],
)
def test_impossible_shapes_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        changed(**values)


@pytest.mark.parametrize("tp", [1, 2, 3, 8])
def test_padding_is_the_smallest_that_divides(tp: int) -> None:
    for vocab in (1, 127, 128, 129, 50257):
        padded = ModelConfig(vocab_size=vocab).padded_vocab_size(tp)
        assert padded % (128 * tp) == 0
        assert 0 <= padded - vocab < 128 * tp
