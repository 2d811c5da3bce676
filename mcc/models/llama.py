"""Llama: pre-norm, rotary positions, RMSNorm, SwiGLU, grouped-query attention (Touvron et al., arXiv 2307.09288)."""

from __future__ import annotations

from typing import Any, ClassVar

from mcc.core.errors import MccError, UsageError
from mcc.models.base import hf_config
from mcc.models.base.blueprint import Blueprint
from mcc.models.base.config import ModelConfig
from mcc.models.base.family import Family, Param
from mcc.models.base.rows import embedding, linear, norm, output

_HF = "model.layers.{i}"
_MEGATRON = "language_model.encoder"
_LAYER = _MEGATRON + ".layers.{i}"


def _half(name: str, hf: str, part: int) -> Param:
    """SwiGLU's gate or up projection, which Megatron-LM keeps one under the other."""
    return Param(
        name=f"layers.{{i}}.mlp.{name}.weight", shape=("F", "D"), tp_dim=0, init="normal",
        hf=f"{_HF}.mlp.{hf}.weight", megatron=f"{_LAYER}.mlp.dense_h_to_4h.weight", megatron_part=(part, 2),
    )  # fmt: skip


def llama_rows(qkv_bias: bool = False) -> tuple[Param, ...]:
    """The table of Llama and of the families that are it up to a bias."""
    return (
        embedding("tokens", "V", "model.embed_tokens", "language_model.embedding.word_embeddings"),
        *norm("layers.{i}.norm1", f"{_HF}.input_layernorm", f"{_LAYER}.input_norm", bias=False),
        *linear(
            "layers.{i}.attention.qkv", ("QKV", "D"), tuple(f"{_HF}.self_attn.{x}_proj" for x in "qkv"),
            f"{_LAYER}.self_attention.query_key_value", tp_dim=0, forms=("fused_qkv", "fused_qkv"), bias=qkv_bias,
        ),
        *linear(
            "layers.{i}.attention.out", ("D", "A"), f"{_HF}.self_attn.o_proj", f"{_LAYER}.self_attention.dense",
            tp_dim=1, init="scaled", bias=False,
        ),
        *norm("layers.{i}.norm2", f"{_HF}.post_attention_layernorm", f"{_LAYER}.post_attention_norm", bias=False),
        _half("gate", "gate_proj", 0),
        _half("up", "up_proj", 1),
        *linear(
            "layers.{i}.mlp.down", ("D", "F"), f"{_HF}.mlp.down_proj", f"{_LAYER}.mlp.dense_4h_to_h",
            tp_dim=1, init="scaled", bias=False,
        ),
        *norm("final_norm", "model.norm", f"{_MEGATRON}.final_norm", bias=False, where="last"),
        output("lm_head", "language_model.output_layer"),
    )  # fmt: skip


class Llama(Family):
    """Llama: pre-norm, rotary positions, RMSNorm, SwiGLU, grouped-query attention."""

    blueprint = Blueprint(norm="rms", positions="rotary", activation="swiglu", bias=False)
    hf_model_type = "llama"
    hf_classes: ClassVar = {"lm": "LlamaForCausalLM"}
    params = llama_rows()

    def to_hf_config(self, config: ModelConfig) -> dict[str, object]:
        """The values of transformers' `LlamaConfig`, in the spelling that its versions 4 and 5 both read."""
        if config.rotary_percent != 1:
            raise UsageError(f"transformers' {self.name} has no rotary_percent = {config.rotary_percent:g}")
        return {
            "architectures": [self.hf_classes[config.head]],
            "model_type": self.hf_model_type,
            "hidden_act": "silu",
            "vocab_size": config.vocab_size,
            "max_position_embeddings": config.positions,
            "hidden_size": config.hidden_size,
            "intermediate_size": config.ffn_size,
            "num_hidden_layers": config.num_layers,
            "num_attention_heads": config.num_attention_heads,
            "num_key_value_heads": config.query_groups,
            "head_dim": config.head_dim,
            "rms_norm_eps": config.layernorm_epsilon,
            **hf_config.rope_values(config),
            "attention_bias": False,
            "mlp_bias": False,
            "attention_dropout": config.attention_dropout,
            "initializer_range": config.init_std,
            "tie_word_embeddings": not config.untie_embeddings_and_output_weights,
        }

    def from_hf_config(self, values: dict[str, Any]) -> ModelConfig:
        """The configuration of a `LlamaForCausalLM`."""
        known = {"hidden_act": ("silu", "swish"), "attention_bias": (False, None), "mlp_bias": (False, None)}
        hf_config.refuse(values, known, self.name)
        rope = hf_config.rope(values, self.name)
        if rope["rotary_percent"] != 1:
            raise MccError(f"config.json: {self.name} turns whole heads, not {rope['rotary_percent']:g} of them")
        hidden, heads = int(values.get("hidden_size", 4096)), int(values.get("num_attention_heads", 32))
        groups, channels = values.get("num_key_value_heads") or heads, values.get("head_dim")
        inner = int(values.get("intermediate_size", 11008))
        return ModelConfig(
            family=self.name,
            vocab_size=int(values["vocab_size"]),
            seq_length=int(values.get("max_position_embeddings", 2048)),
            hidden_size=hidden,
            num_layers=int(values.get("num_hidden_layers", 32)),
            num_attention_heads=heads,
            num_query_groups=None if groups == heads else int(groups),
            kv_channels=None if channels is None or channels * heads == hidden else int(channels),
            ffn_hidden_size=None if inner == 4 * hidden else inner,
            untie_embeddings_and_output_weights=not values.get("tie_word_embeddings", False),
            layernorm_epsilon=float(values.get("rms_norm_eps", 1e-6)),
            attention_dropout=float(values.get("attention_dropout") or 0.0),
            init_std=float(values.get("initializer_range", 0.02)),
            **rope,
        )
