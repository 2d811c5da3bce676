"""BERT as transformers has it: post-LN, a norm in the embedding, exact GELU (Devlin et al., arXiv 1810.04805)."""

from __future__ import annotations

from typing import ClassVar

from mcc.models.base.bert import BertFamily
from mcc.models.base.blueprint import HEADS, Blueprint
from mcc.models.base.rows import bert_heads, embedding, linear, norm

_EMBEDDING = "bert.embeddings"
_HF = "bert.encoder.layer.{i}"
_QKV = ("query", "key", "value")


class Bert(BertFamily):
    """BERT as transformers has it: post-LN, a norm in the embedding, exact GELU. Megatron-LM has no such model."""

    blueprint = Blueprint(order="post", activation="gelu", causal=False, token_types=True, heads=HEADS)
    hf_model_type = "bert"
    hf_classes: ClassVar = {
        "pretraining": "BertForPreTraining",
        "lm": "BertForMaskedLM",
        "classification": "BertForSequenceClassification",
        "multiple-choice": "BertForMultipleChoice",
        "pooler": "BertModel",
    }
    params = (
        embedding("tokens", "V", f"{_EMBEDDING}.word_embeddings"),
        embedding("positions", "T", f"{_EMBEDDING}.position_embeddings"),
        embedding("types", "S", f"{_EMBEDDING}.token_type_embeddings"),
        *norm("embedding.norm", f"{_EMBEDDING}.LayerNorm", where="first", tokens="all"),
        *linear(
            "layers.{i}.attention.qkv", ("QKV", "D"), tuple(f"{_HF}.attention.self.{x}" for x in _QKV),
            tp_dim=0, forms=("fused_qkv", "fused_qkv"),
        ),
        *linear("layers.{i}.attention.out", ("D", "A"), f"{_HF}.attention.output.dense", tp_dim=1),
        *norm("layers.{i}.norm1", f"{_HF}.attention.output.LayerNorm"),
        *linear("layers.{i}.mlp.up", ("F", "D"), f"{_HF}.intermediate.dense", tp_dim=0),
        *linear("layers.{i}.mlp.down", ("D", "F"), f"{_HF}.output.dense", tp_dim=1),
        *norm("layers.{i}.norm2", f"{_HF}.output.LayerNorm"),
        *bert_heads(lambda name: ""),
    )  # fmt: skip
