"""Qwen2 and Qwen2.5: Llama's layers, with a bias for queries, keys and values (Yang et al., arXiv 2407.10671)."""

from __future__ import annotations

from typing import Any, ClassVar

from mcc.core.errors import MccError
from mcc.models.base.blueprint import Blueprint
from mcc.models.base.config import ModelConfig
from mcc.models.llama import Llama, llama_rows


class Qwen2(Llama):
    """Qwen2 and Qwen2.5: Llama's layers, with a bias for queries, keys and values."""

    blueprint = Blueprint(norm="rms", positions="rotary", activation="swiglu", bias=False, qkv_bias=True)
    hf_model_type = "qwen2"
    hf_classes: ClassVar = {"lm": "Qwen2ForCausalLM"}
    params = llama_rows(qkv_bias=True)

    def to_hf_config(self, config: ModelConfig) -> dict[str, object]:
        """The values of transformers' `Qwen2Config`."""
        values = super().to_hf_config(config)
        unknown = {"attention_bias", "mlp_bias"} if config.kv_channels else {"attention_bias", "mlp_bias", "head_dim"}
        return {**{key: value for key, value in values.items() if key not in unknown}, "use_sliding_window": False}

    def from_hf_config(self, values: dict[str, Any]) -> ModelConfig:
        """The configuration of a `Qwen2ForCausalLM`."""
        layers, first = int(values.get("num_hidden_layers", 32)), int(values.get("max_window_layers", 28))
        if values.get("use_sliding_window") and values.get("sliding_window") and first < layers:
            raise MccError(
                f"config.json: use_sliding_window: layers from {first} on see {values['sliding_window']} tokens; "
                "attention here has no window",
                "Qwen's own checkpoints have use_sliding_window = false",
            )
        return super().from_hf_config({"num_key_value_heads": 32, "intermediate_size": 22016, **values})
