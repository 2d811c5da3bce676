"""GPT-NeoX and Pythia: attention and MLP side by side, partly rotary positions (Black et al., arXiv 2204.06745)."""

from __future__ import annotations

from typing import Any, ClassVar

from mcc.models.base import hf_config
from mcc.models.base.blueprint import Blueprint
from mcc.models.base.config import ModelConfig
from mcc.models.base.family import Family
from mcc.models.base.rows import embedding, linear, norm, output

_HF = "gpt_neox.layers.{i}"


class GPTNeoX(Family):
    """GPT-NeoX and Pythia: attention and MLP side by side, rotary positions in a share of each head's channels.

    The fused queries, keys and values stand as here, head by head. Megatron-LM has no such model.
    """

    blueprint = Blueprint(order="parallel", positions="rotary", activation="gelu")
    hf_model_type = "gpt_neox"
    hf_classes: ClassVar = {"lm": "GPTNeoXForCausalLM"}
    params = (
        embedding("tokens", "V", "gpt_neox.embed_in"),
        *norm("layers.{i}.norm1", f"{_HF}.input_layernorm"),
        *linear("layers.{i}.attention.qkv", ("QKV", "D"), f"{_HF}.attention.query_key_value", tp_dim=0),
        *linear("layers.{i}.attention.out", ("D", "A"), f"{_HF}.attention.dense", tp_dim=1, init="scaled"),
        *norm("layers.{i}.norm2", f"{_HF}.post_attention_layernorm"),
        *linear("layers.{i}.mlp.up", ("F", "D"), f"{_HF}.mlp.dense_h_to_4h", tp_dim=0),
        *linear("layers.{i}.mlp.down", ("D", "F"), f"{_HF}.mlp.dense_4h_to_h", tp_dim=1, init="scaled"),
        *norm("final_norm", "gpt_neox.final_layer_norm", where="last"),
        output("embed_out"),
    )

    def to_hf_config(self, config: ModelConfig) -> dict[str, object]:
        """The values of transformers' `GPTNeoXConfig`, in the spelling that its versions 4 and 5 both read."""
        hf_config.require_plain_heads(config)
        rope = hf_config.rope_values(config)
        return {
            "architectures": [self.hf_classes[config.head]],
            "model_type": self.hf_model_type,
            "hidden_act": "gelu",
            "use_parallel_residual": True,
            "attention_bias": True,
            "vocab_size": config.vocab_size,
            "max_position_embeddings": config.positions,
            "hidden_size": config.hidden_size,
            "intermediate_size": config.ffn_size,
            "num_hidden_layers": config.num_layers,
            "num_attention_heads": config.num_attention_heads,
            "layer_norm_eps": config.layernorm_epsilon,
            "rotary_emb_base": rope["rope_theta"],
            "rotary_pct": config.rotary_percent,
            "rope_scaling": rope["rope_scaling"],
            "hidden_dropout": config.hidden_dropout,
            "attention_dropout": config.attention_dropout,
            "initializer_range": config.init_std,
            "tie_word_embeddings": not config.untie_embeddings_and_output_weights,
        }

    def from_hf_config(self, values: dict[str, Any]) -> ModelConfig:
        """The configuration of a `GPTNeoXForCausalLM`."""
        known = {"hidden_act": ("gelu",), "use_parallel_residual": (True,), "attention_bias": (True,)}
        hf_config.refuse(values, known, "GPT-NeoX")
        hidden, inner = int(values.get("hidden_size", 6144)), int(values.get("intermediate_size", 24576))
        return ModelConfig(
            family=self.name,
            vocab_size=int(values.get("vocab_size", 50432)),
            seq_length=int(values.get("max_position_embeddings", 2048)),
            hidden_size=hidden,
            num_layers=int(values.get("num_hidden_layers", 44)),
            num_attention_heads=int(values.get("num_attention_heads", 64)),
            ffn_hidden_size=None if inner == 4 * hidden else inner,
            untie_embeddings_and_output_weights=not values.get("tie_word_embeddings", False),
            layernorm_epsilon=float(values.get("layer_norm_eps", 1e-5)),
            hidden_dropout=float(values.get("hidden_dropout", 0.0)),
            attention_dropout=float(values.get("attention_dropout", 0.0)),
            init_std=float(values.get("initializer_range", 0.02)),
            **hf_config.rope({"rotary_pct": 0.25, **values}, "GPT-NeoX"),
        )
