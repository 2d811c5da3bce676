"""BERT as transformers has it: post-LN, a norm in the embedding, exact GELU (Devlin et al., arXiv 1810.04805)."""

from __future__ import annotations

from typing import ClassVar

from mcc.models.base.bert import BertFamily, post_ln_rows
from mcc.models.base.blueprint import HEADS, Blueprint
from mcc.models.base.rows import bert_heads


class Bert(BertFamily):
    """BERT as transformers has it: post-LN, a norm in the embedding, exact GELU.

    Megatron-LM computes the same with --apply-residual-connection-post-layernorm: each layer begins with the norm that
    ends the one before here.
    """

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
        *post_ln_rows("bert", megatron=True),
        *bert_heads(lambda name: name),
    )
