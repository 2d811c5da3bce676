"""GPT-2 and GPT-3: pre-LN, learned positions, GELU, tied output (Radford et al. 2019; Brown et al. 2020)."""

from __future__ import annotations

from typing import Any, ClassVar

from mcc.models.base import hf_config
from mcc.models.base.blueprint import Blueprint
from mcc.models.base.config import ModelConfig
from mcc.models.base.family import Family
from mcc.models.base.rows import embedding, linear, norm, output

_HF = "transformer.h.{i}"
_MEGATRON = "language_model.encoder"
_LAYER = _MEGATRON + ".layers.{i}"
_EMBEDDING = "language_model.embedding"
_CONV = ("transposed", "same")  # transformers' Conv1D


class GPT2(Family):
    """GPT-2 and GPT-3: pre-LN, learned positions, GELU, tied output."""

    blueprint = Blueprint()
    hf_model_type = "gpt2"
    hf_classes: ClassVar = {"lm": "GPT2LMHeadModel"}
    params = (
        embedding("tokens", "V", "transformer.wte", f"{_EMBEDDING}.word_embeddings"),
        embedding("positions", "T", "transformer.wpe", f"{_EMBEDDING}.position_embeddings"),
        *norm("layers.{i}.norm1", f"{_HF}.ln_1", f"{_LAYER}.input_layernorm"),
        *linear(
            "layers.{i}.attention.qkv", ("QKV", "D"), f"{_HF}.attn.c_attn", f"{_LAYER}.self_attention.query_key_value",
            tp_dim=0, forms=("fused_qkv_transposed", "fused_qkv"),
        ),
        *linear(
            "layers.{i}.attention.out", ("D", "A"), f"{_HF}.attn.c_proj", f"{_LAYER}.self_attention.dense",
            tp_dim=1, init="scaled", forms=_CONV,
        ),
        *norm("layers.{i}.norm2", f"{_HF}.ln_2", f"{_LAYER}.post_attention_layernorm"),
        *linear(
            "layers.{i}.mlp.up", ("F", "D"), f"{_HF}.mlp.c_fc", f"{_LAYER}.mlp.dense_h_to_4h", tp_dim=0, forms=_CONV
        ),
        *linear(
            "layers.{i}.mlp.down", ("D", "F"), f"{_HF}.mlp.c_proj", f"{_LAYER}.mlp.dense_4h_to_h",
            tp_dim=1, init="scaled", forms=_CONV,
        ),
        *norm("final_norm", "transformer.ln_f", f"{_MEGATRON}.final_layernorm", where="last"),
        output("lm_head", "language_model.output_layer"),
    )  # fmt: skip

    def to_hf_config(self, config: ModelConfig) -> dict[str, object]:
        """The values of transformers' `GPT2Config`."""
        hf_config.require_plain_heads(config)
        return {
            "architectures": [self.hf_classes[config.head]],
            "model_type": "gpt2",
            "activation_function": "gelu_new",
            "vocab_size": config.vocab_size,
            "n_positions": config.positions,
            "n_embd": config.hidden_size,
            "n_layer": config.num_layers,
            "n_head": config.num_attention_heads,
            "n_inner": config.ffn_hidden_size,
            "layer_norm_epsilon": config.layernorm_epsilon,
            "initializer_range": config.init_std,
            "tie_word_embeddings": not config.untie_embeddings_and_output_weights,
            "attn_pdrop": config.attention_dropout,
            "embd_pdrop": config.hidden_dropout,
            "resid_pdrop": config.hidden_dropout,
        }

    def from_hf_config(self, values: dict[str, Any]) -> ModelConfig:
        """The configuration of a `GPT2LMHeadModel`."""
        known = {
            "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,),
            "reorder_and_upcast_attn": (False,),
            "add_cross_attention": (False,),
        }
        hf_config.refuse(values, known, "GPT-2")
        return ModelConfig(
            family="gpt2",
            vocab_size=int(values["vocab_size"]),
            seq_length=int(values.get("n_positions", 1024)),
            hidden_size=int(values.get("n_embd", 768)),
            num_layers=int(values.get("n_layer", 12)),
            num_attention_heads=int(values.get("n_head", 12)),
            ffn_hidden_size=values.get("n_inner"),
            untie_embeddings_and_output_weights=not values.get("tie_word_embeddings", True),
            layernorm_epsilon=float(values.get("layer_norm_epsilon", 1e-5)),
            hidden_dropout=float(values.get("resid_pdrop", 0.1)),
            attention_dropout=float(values.get("attn_pdrop", 0.1)),
            init_std=float(values.get("initializer_range", 0.02)),
        )
