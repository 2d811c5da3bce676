"""GPT-2 and GPT-3: pre-LN, learned positions, GELU, tied output (Radford et al. 2019; Brown et al. 2020)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcc.core.errors import MccError
from mcc.models.base.config import ModelConfig
from mcc.models.base.family import Family, Param

if TYPE_CHECKING:
    from mcc.models.base.axes import Axes
    from mcc.models.base.transformer import Stage

_HF = "transformer.h.{i}"
_MEGATRON = "language_model.encoder"
_LAYER = _MEGATRON + ".layers.{i}"
_EMBEDDING = "language_model.embedding"


def _norm(name: str, hf: str, megatron: str) -> tuple[Param, Param]:
    return (
        Param(name=f"{name}.weight", shape=("D",), init="ones", hf=f"{hf}.weight", megatron=f"{megatron}.weight"),
        Param(name=f"{name}.bias", shape=("D",), hf=f"{hf}.bias", megatron=f"{megatron}.bias"),
    )


class GPT2(Family):
    """GPT-2 and GPT-3: pre-LN, learned positions, GELU, tied output."""

    hf_model_type = "gpt2"
    tied = True
    params = (
        Param(
            name="embedding.tokens.weight", shape=("V", "D"), where="first", tp_dim=0, init="normal",
            hf="transformer.wte.weight", megatron=f"{_EMBEDDING}.word_embeddings.weight",
        ),
        Param(
            name="embedding.positions.weight", shape=("T", "D"), where="first", init="normal",
            hf="transformer.wpe.weight", megatron=f"{_EMBEDDING}.position_embeddings.weight",
        ),
        *_norm("layers.{i}.norm1", f"{_HF}.ln_1", f"{_LAYER}.input_layernorm"),
        Param(
            name="layers.{i}.attention.qkv.weight", shape=("3D", "D"), tp_dim=0, init="normal",
            hf=f"{_HF}.attn.c_attn.weight", hf_form="fused_qkv_transposed",
            megatron=f"{_LAYER}.self_attention.query_key_value.weight",
        ),
        Param(
            name="layers.{i}.attention.qkv.bias", shape=("3D",), tp_dim=0,
            hf=f"{_HF}.attn.c_attn.bias", hf_form="fused_qkv",
            megatron=f"{_LAYER}.self_attention.query_key_value.bias",
        ),
        Param(
            name="layers.{i}.attention.out.weight", shape=("D", "D"), tp_dim=1, init="scaled",
            hf=f"{_HF}.attn.c_proj.weight", hf_form="transposed", megatron=f"{_LAYER}.self_attention.dense.weight",
        ),
        Param(
            name="layers.{i}.attention.out.bias", shape=("D",),
            hf=f"{_HF}.attn.c_proj.bias", megatron=f"{_LAYER}.self_attention.dense.bias",
        ),
        *_norm("layers.{i}.norm2", f"{_HF}.ln_2", f"{_LAYER}.post_attention_layernorm"),
        Param(
            name="layers.{i}.mlp.up.weight", shape=("F", "D"), tp_dim=0, init="normal",
            hf=f"{_HF}.mlp.c_fc.weight", hf_form="transposed", megatron=f"{_LAYER}.mlp.dense_h_to_4h.weight",
        ),
        Param(
            name="layers.{i}.mlp.up.bias", shape=("F",), tp_dim=0,
            hf=f"{_HF}.mlp.c_fc.bias", megatron=f"{_LAYER}.mlp.dense_h_to_4h.bias",
        ),
        Param(
            name="layers.{i}.mlp.down.weight", shape=("D", "F"), tp_dim=1, init="scaled",
            hf=f"{_HF}.mlp.c_proj.weight", hf_form="transposed", megatron=f"{_LAYER}.mlp.dense_4h_to_h.weight",
        ),
        Param(
            name="layers.{i}.mlp.down.bias", shape=("D",),
            hf=f"{_HF}.mlp.c_proj.bias", megatron=f"{_LAYER}.mlp.dense_4h_to_h.bias",
        ),
        *(
            Param(
                name=row.name, shape=row.shape, init=row.init, where="last", hf=row.hf, megatron=row.megatron
            )
            for row in _norm("final_norm", "transformer.ln_f", f"{_MEGATRON}.final_layernorm")
        ),
    )  # fmt: skip

    def to_hf_config(self, config: ModelConfig) -> dict[str, object]:
        """The values of transformers' `GPT2Config`."""
        return {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "activation_function": "gelu_new",
            "vocab_size": config.vocab_size,
            "n_positions": config.seq_length,
            "n_embd": config.hidden_size,
            "n_layer": config.num_layers,
            "n_head": config.num_attention_heads,
            "n_inner": config.ffn_hidden_size,
            "layer_norm_epsilon": config.layernorm_epsilon,
            "initializer_range": config.init_std,
            "tie_word_embeddings": True,
            "attn_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "resid_pdrop": 0.0,
        }

    def from_hf_config(self, values: dict[str, object]) -> ModelConfig:
        """The configuration of a `GPT2LMHeadModel`."""
        refused = {
            "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
            "tie_word_embeddings": (True,),
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,),
            "reorder_and_upcast_attn": (False,),
        }
        for key, known in refused.items():
            if values.get(key, known[0]) not in known:
                raise MccError(f"config.json: {key} = {values[key]!r} is not GPT-2's", f"known: {known[0]!r}")
        return ModelConfig(
            family="gpt2",
            vocab_size=int(values["vocab_size"]),  # type: ignore[call-overload]
            seq_length=int(values.get("n_positions", 1024)),  # type: ignore[call-overload]
            hidden_size=int(values.get("n_embd", 768)),  # type: ignore[call-overload]
            num_layers=int(values.get("n_layer", 12)),  # type: ignore[call-overload]
            num_attention_heads=int(values.get("n_head", 12)),  # type: ignore[call-overload]
            ffn_hidden_size=values.get("n_inner"),  # type: ignore[arg-type]
            layernorm_epsilon=float(values.get("layer_norm_epsilon", 1e-5)),  # type: ignore[arg-type]
            init_std=float(values.get("initializer_range", 0.02)),  # type: ignore[arg-type]
        )

    def build(self, config: ModelConfig, axes: Axes, layers: range, first: bool = True, last: bool = True) -> Stage:
        """A pipeline stage of a GPT."""
        from mcc.models.base.transformer import Stage

        return Stage(config, axes, layers, first, last)
