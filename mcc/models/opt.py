"""OPT: GPT-3's layers with ReLU (Zhang et al., arXiv 2205.01068)."""

from __future__ import annotations

from typing import Any, ClassVar

from mcc.core.errors import MccError, UsageError
from mcc.models.base import hf_config
from mcc.models.base.blueprint import Blueprint
from mcc.models.base.config import ModelConfig
from mcc.models.base.family import Family
from mcc.models.base.rows import embedding, linear, norm, output

_HF = "model.decoder.layers.{i}"
_EPSILON = 1e-5  # torch's: config.json has none


class OPT(Family):
    """OPT: pre-LN, ReLU, learned positions from the third row on. Megatron-LM has no such model."""

    blueprint = Blueprint(activation="relu", first_position=2)
    hf_model_type = "opt"
    hf_classes: ClassVar = {"lm": "OPTForCausalLM"}
    params = (
        embedding("tokens", "V", "model.decoder.embed_tokens"),
        embedding("positions", "T2", "model.decoder.embed_positions"),
        *norm("layers.{i}.norm1", f"{_HF}.self_attn_layer_norm"),
        *linear(
            "layers.{i}.attention.qkv", ("QKV", "D"), tuple(f"{_HF}.self_attn.{x}_proj" for x in "qkv"),
            tp_dim=0, forms=("fused_qkv", "fused_qkv"),
        ),
        *linear("layers.{i}.attention.out", ("D", "A"), f"{_HF}.self_attn.out_proj", tp_dim=1, init="scaled"),
        *norm("layers.{i}.norm2", f"{_HF}.final_layer_norm"),
        *linear("layers.{i}.mlp.up", ("F", "D"), f"{_HF}.fc1", tp_dim=0),
        *linear("layers.{i}.mlp.down", ("D", "F"), f"{_HF}.fc2", tp_dim=1, init="scaled"),
        *norm("final_norm", "model.decoder.final_layer_norm", where="last"),
        output("lm_head"),
    )  # fmt: skip

    def to_hf_config(self, config: ModelConfig) -> dict[str, object]:
        """The values of transformers' `OPTConfig`."""
        hf_config.require_plain_heads(config)
        if config.layernorm_epsilon != _EPSILON:
            raise UsageError(f"transformers' opt has no layernorm_epsilon = {config.layernorm_epsilon:g}, only 1e-05")
        return {
            "architectures": [self.hf_classes[config.head]],
            "model_type": "opt",
            "activation_function": "relu",
            "do_layer_norm_before": True,
            "vocab_size": config.vocab_size,
            "max_position_embeddings": config.positions,
            "hidden_size": config.hidden_size,
            "word_embed_proj_dim": config.hidden_size,
            "ffn_dim": config.ffn_size,
            "num_hidden_layers": config.num_layers,
            "num_attention_heads": config.num_attention_heads,
            "dropout": config.hidden_dropout,
            "attention_dropout": config.attention_dropout,
            "init_std": config.init_std,
            "tie_word_embeddings": not config.untie_embeddings_and_output_weights,
        }

    def from_hf_config(self, values: dict[str, Any]) -> ModelConfig:
        """The configuration of an `OPTForCausalLM`."""
        hidden, inner = int(values.get("hidden_size", 768)), int(values.get("ffn_dim", 3072))
        if not values.get("do_layer_norm_before", True):
            raise MccError("config.json: do_layer_norm_before = False: the post-LN OPT (350m) is no family here")
        known = {
            "activation_function": ("relu",),
            "word_embed_proj_dim": (hidden, None),
            "_remove_final_layer_norm": (False,),
            "enable_bias": (True,),
            "layer_norm_elementwise_affine": (True,),
        }
        hf_config.refuse(values, known, "OPT")
        return ModelConfig(
            family=self.name,
            vocab_size=int(values.get("vocab_size", 50272)),
            seq_length=int(values.get("max_position_embeddings", 2048)),
            hidden_size=hidden,
            num_layers=int(values.get("num_hidden_layers", 12)),
            num_attention_heads=int(values.get("num_attention_heads", 12)),
            ffn_hidden_size=None if inner == 4 * hidden else inner,
            untie_embeddings_and_output_weights=not values.get("tie_word_embeddings", True),
            layernorm_epsilon=_EPSILON,
            hidden_dropout=float(values.get("dropout", 0.1)),
            attention_dropout=float(values.get("attention_dropout", 0.0)),
            init_std=float(values.get("init_std", 0.02)),
        )
