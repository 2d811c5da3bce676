"""BERT as Megatron-LM has it: pre-LN, so that deeper ones train (Shoeybi et al., arXiv 1909.08053, section 4)."""

from __future__ import annotations

from typing import ClassVar

from mcc.models.base.bert import BertFamily
from mcc.models.base.blueprint import HEADS, Blueprint
from mcc.models.base.rows import bert_heads, embedding, linear, norm

_EMBEDDING = "bert.embeddings"
_HF = "bert.encoder.layer.{i}"
_QKV = ("query", "key", "value")
_MEGATRON = "language_model.encoder"
_LAYER = _MEGATRON + ".layers.{i}"
_FIRST = "language_model.embedding"


class MegatronBert(BertFamily):
    """BERT as Megatron-LM has it: pre-LN, a last norm, exact GELU."""

    blueprint = Blueprint(activation="gelu", causal=False, token_types=True, heads=HEADS)
    hf_model_type = "megatron-bert"
    hf_classes: ClassVar = {
        "pretraining": "MegatronBertForPreTraining",
        "lm": "MegatronBertForMaskedLM",
        "classification": "MegatronBertForSequenceClassification",
        "multiple-choice": "MegatronBertForMultipleChoice",
        "pooler": "MegatronBertModel",
    }
    params = (
        embedding("tokens", "V", f"{_EMBEDDING}.word_embeddings", f"{_FIRST}.word_embeddings"),
        embedding("positions", "T", f"{_EMBEDDING}.position_embeddings", f"{_FIRST}.position_embeddings"),
        embedding("types", "S", f"{_EMBEDDING}.token_type_embeddings", f"{_FIRST}.tokentype_embeddings"),
        *norm("layers.{i}.norm1", f"{_HF}.attention.ln", f"{_LAYER}.input_layernorm"),
        *linear(
            "layers.{i}.attention.qkv", ("QKV", "D"), tuple(f"{_HF}.attention.self.{x}" for x in _QKV),
            f"{_LAYER}.self_attention.query_key_value", tp_dim=0, forms=("fused_qkv", "fused_qkv"),
        ),
        *linear(
            "layers.{i}.attention.out", ("D", "A"), f"{_HF}.attention.output.dense", f"{_LAYER}.self_attention.dense",
            tp_dim=1, init="scaled",
        ),
        *norm("layers.{i}.norm2", f"{_HF}.ln", f"{_LAYER}.post_attention_layernorm"),
        *linear(
            "layers.{i}.mlp.up", ("F", "D"), f"{_HF}.intermediate.dense", f"{_LAYER}.mlp.dense_h_to_4h", tp_dim=0
        ),
        *linear(
            "layers.{i}.mlp.down", ("D", "F"), f"{_HF}.output.dense", f"{_LAYER}.mlp.dense_4h_to_h",
            tp_dim=1, init="scaled",
        ),
        *norm("final_norm", "bert.encoder.ln", f"{_MEGATRON}.final_layernorm", where="last"),
        *bert_heads(lambda name: name),
    )  # fmt: skip
