"""RoBERTa: BERT trained longer, on masked tokens alone (Liu et al., arXiv 1907.11692)."""

from __future__ import annotations

from typing import Any, ClassVar

from mcc.models.base import hf_config
from mcc.models.base.bert import BertFamily, post_ln_rows
from mcc.models.base.blueprint import Blueprint
from mcc.models.base.config import ModelConfig
from mcc.models.base.family import Param
from mcc.models.base.rows import linear, norm

_HEADS = ("lm", "classification", "multiple-choice", "pooler")
_PADDING = 1  # the padding's token id, and with it the row of its position: tokens begin after it


class Roberta(BertFamily):
    """RoBERTa: BERT's layers, positions from the third row on, one token type, an output layer's names of its own.

    transformers counts positions over tokens that are not padding, here padding stands at the end. Megatron-LM has no
    such model.
    """

    blueprint = Blueprint(
        order="post", activation="gelu", first_position=_PADDING + 1, causal=False, token_types=True, heads=_HEADS
    )
    hf_model_type = "roberta"
    hf_classes: ClassVar = {
        "lm": "RobertaForMaskedLM",
        "classification": "RobertaForSequenceClassification",
        "multiple-choice": "RobertaForMultipleChoice",
        "pooler": "RobertaModel",
    }
    params = (
        *post_ln_rows("roberta", "T2"),
        *linear("top.transform.dense", ("D", "D"), "lm_head.dense", where="last", heads=("lm",)),
        *norm("top.transform.norm", "lm_head.layer_norm", where="last", heads=("lm",)),
        Param(name="top.bias", shape=("V",), tp_dim=0, hf="lm_head.bias", where="last", heads=("lm",)),
        *linear(
            "top.pooler", ("D", "D"), "roberta.pooler.dense", where="last", tokens="all",
            heads=("multiple-choice", "pooler"),
        ),
        *linear(
            "top.pooler", ("D", "D"), "classifier.dense", where="last", tokens="all", heads=("classification",)
        ),
        *linear(
            "top.classifier", ("C", "D"), "classifier.out_proj", where="last", tokens="all", heads=("classification",)
        ),
        *linear("top.classifier", ("C", "D"), "classifier", where="last", tokens="all", heads=("multiple-choice",)),
    )  # fmt: skip

    def to_hf_config(self, config: ModelConfig) -> dict[str, object]:
        """The values of transformers' `RobertaConfig`."""
        positions = {"max_position_embeddings": config.positions + _PADDING + 1, "pad_token_id": _PADDING}
        return {**super().to_hf_config(config), **positions}

    def from_hf_config(self, values: dict[str, Any]) -> ModelConfig:
        """The configuration of one of RoBERTa's classes."""
        hf_config.refuse(values, {"pad_token_id": (_PADDING,)}, "RoBERTa")
        rows = int(values.get("max_position_embeddings", 512))
        return super().from_hf_config({**values, "max_position_embeddings": rows - _PADDING - 1})
