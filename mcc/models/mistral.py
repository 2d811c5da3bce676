"""Mistral: Llama's layers with a sliding window (Jiang et al., arXiv 2310.06825)."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from mcc.models.base.blueprint import Blueprint
from mcc.models.base.config import ModelConfig
from mcc.models.llama import Llama


class Mistral(Llama):
    """Mistral: Llama's layers with a sliding window.

    The window is kept from checkpoint to checkpoint; more tokens than it has at a time are refused where a model runs,
    because attention here has no window. Since version 0.2 of Mistral 7B there is none.
    """

    blueprint = Blueprint(norm="rms", positions="rotary", activation="swiglu", bias=False, window=True)
    hf_model_type = "mistral"
    hf_classes: ClassVar = {"lm": "MistralForCausalLM"}

    def to_hf_config(self, config: ModelConfig) -> dict[str, object]:
        """The values of transformers' `MistralConfig`."""
        values = super().to_hf_config(config)
        kept = {key: value for key, value in values.items() if key not in ("attention_bias", "mlp_bias")}
        return {**kept, "sliding_window": config.sliding_window}

    def from_hf_config(self, values: dict[str, Any]) -> ModelConfig:
        """The configuration of a `MistralForCausalLM`. What its files leave out is not Llama's."""
        missing = {"num_key_value_heads": 8, "intermediate_size": 14336, "max_position_embeddings": 131072}
        window = values.get("sliding_window", 4096)
        return dataclasses.replace(super().from_hf_config({**missing, **values}), sliding_window=window)
