"""What BERT's families share: transformers' configuration and names (Devlin et al., arXiv 1810.04805)."""

from __future__ import annotations

from abc import ABC
from typing import Any

from mcc.models.base import hf_config
from mcc.models.base.config import ModelConfig
from mcc.models.base.family import Family, Param
from mcc.models.base.rows import embedding, linear, norm


def post_ln_rows(prefix: str, positions: str = "T", megatron: bool = False) -> tuple[Param, ...]:
    """The rows of a post-LN BERT below its heads, as transformers names them below `prefix`.

    With `megatron` as Megatron-LM has them, too, where residual connections take a norm's output.
    """
    first, layer = f"{prefix}.embeddings", prefix + ".encoder.layer.{i}"

    def there(name: str) -> str:
        return f"language_model.{name}" if megatron else ""

    return (
        embedding("tokens", "V", f"{first}.word_embeddings", there("embedding.word_embeddings")),
        embedding("positions", positions, f"{first}.position_embeddings", there("embedding.position_embeddings")),
        embedding("types", "S", f"{first}.token_type_embeddings", there("embedding.tokentype_embeddings")),
        *norm(
            "embedding.norm", f"{first}.LayerNorm", there("encoder.layers.0.input_layernorm"),
            where="first", tokens="all",
        ),
        *linear(
            "layers.{i}.attention.qkv", ("QKV", "D"),
            tuple(f"{layer}.attention.self.{x}" for x in ("query", "key", "value")),
            there("encoder.layers.{i}.self_attention.query_key_value"), tp_dim=0, forms=("fused_qkv", "fused_qkv"),
        ),
        *linear(
            "layers.{i}.attention.out", ("D", "A"), f"{layer}.attention.output.dense",
            there("encoder.layers.{i}.self_attention.dense"), tp_dim=1,
        ),
        *norm(
            "layers.{i}.norm1", f"{layer}.attention.output.LayerNorm",
            there("encoder.layers.{i}.post_attention_layernorm"),
        ),
        *linear(
            "layers.{i}.mlp.up", ("F", "D"), f"{layer}.intermediate.dense",
            there("encoder.layers.{i}.mlp.dense_h_to_4h"), tp_dim=0,
        ),
        *linear(
            "layers.{i}.mlp.down", ("D", "F"), f"{layer}.output.dense",
            there("encoder.layers.{i}.mlp.dense_4h_to_h"), tp_dim=1,
        ),
        *norm("layers.{i}.norm2", f"{layer}.output.LayerNorm", there("encoder.layers.{next}.input_layernorm")),
    )  # fmt: skip


class BertFamily(Family, ABC):
    """A family whose config.json has BERT's keys."""

    def to_hf_config(self, config: ModelConfig) -> dict[str, object]:
        """The values of transformers' `BertConfig`, or of `MegatronBertConfig`."""
        hf_config.require_plain_heads(config)
        values: dict[str, object] = {
            "architectures": [self.hf_classes[config.head]],
            "model_type": self.hf_model_type,
            "hidden_act": "gelu",
            "position_embedding_type": "absolute",
            "vocab_size": config.vocab_size,
            "max_position_embeddings": config.positions,
            "type_vocab_size": config.num_tokentypes,
            "hidden_size": config.hidden_size,
            "intermediate_size": config.ffn_size,
            "num_hidden_layers": config.num_layers,
            "num_attention_heads": config.num_attention_heads,
            "layer_norm_eps": config.layernorm_epsilon,
            "hidden_dropout_prob": config.hidden_dropout,
            "attention_probs_dropout_prob": config.attention_dropout,
            "initializer_range": config.init_std,
            "tie_word_embeddings": True,
        }
        if config.head == "classification":
            values["id2label"] = {str(i): f"LABEL_{i}" for i in range(config.num_labels)}
            values["label2id"] = {f"LABEL_{i}": i for i in range(config.num_labels)}
        return values

    def from_hf_config(self, values: dict[str, Any]) -> ModelConfig:
        """The configuration of one of the family's classes."""
        known = {
            "hidden_act": ("gelu",),
            "position_embedding_type": ("absolute", None),
            "tie_word_embeddings": (True,),
            "is_decoder": (False,),
            "add_cross_attention": (False,),
        }
        hf_config.refuse(values, known, self.name)
        hidden, inner = int(values.get("hidden_size", 768)), int(values.get("intermediate_size", 3072))
        return ModelConfig(
            family=self.name,
            head=hf_config.head_of(values, self.hf_classes),
            num_labels=len(values.get("id2label") or ()) or int(values.get("num_labels", 2)),
            vocab_size=int(values["vocab_size"]),
            seq_length=int(values.get("max_position_embeddings", 512)),
            num_tokentypes=int(values.get("type_vocab_size", 2)),
            hidden_size=hidden,
            num_layers=int(values.get("num_hidden_layers", 12)),
            num_attention_heads=int(values.get("num_attention_heads", 12)),
            ffn_hidden_size=None if inner == 4 * hidden else inner,
            layernorm_epsilon=float(values.get("layer_norm_eps", 1e-12)),
            hidden_dropout=float(values.get("hidden_dropout_prob", 0.1)),
            attention_dropout=float(values.get("attention_probs_dropout_prob", 0.1)),
            init_std=float(values.get("initializer_range", 0.02)),
        )
