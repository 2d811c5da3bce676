"""Megatron-LM's arguments as its checkpoints keep them: what the model is."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mcc.ckpt.format import WriteOptions
from mcc.ckpt.source import Meta
from mcc.core.errors import MccError, UsageError
from mcc.models.base.blueprint import Blueprint
from mcc.models.base.config import ModelConfig
from mcc.models.base.family import Family, families

POST_LN = "apply_residual_connection_post_layernorm"

# What no family has: argument -> the only value that fits.
_REFUSED = {
    "squared_relu": False,
    "rotary_seq_len_interpolation_factor": None,
    "rotary_interleaved": False,
    "qk_layernorm": False,
}

# NVIDIA's released models, whose files have no arguments: layers, hidden size -> attention heads. Both are of 345M.
_RELEASED = {(24, 1024): 16}
# Rows of their embeddings -> tokens of their vocabularies: GPT-2's, BERT's uncased and cased.
_RELEASED_VOCABULARIES = {("gpt2", 50304): 50257, ("megatron-bert", 30592): 30522, ("megatron-bert", 29056): 28996}


def released_args(family: str, layers: int, shapes: Mapping[str, tuple[int, ...]]) -> Namespace | None:
    """The arguments of a model that NVIDIA released (Shoeybi et al., arXiv 1909.08053); None: it is none of them.

    Args:
        family: the name of the family that its tensors belong to.
        layers: how many it has.
        shapes: of the first rank's tensors.
    """
    words = shapes.get("language_model.embedding.word_embeddings.weight", (0, 0))
    positions = shapes.get("language_model.embedding.position_embeddings.weight", (0, 0))
    inner = shapes.get("language_model.encoder.layers.0.mlp.dense_h_to_4h.weight", (0, 0))
    rows, hidden = words
    if (layers, hidden) not in _RELEASED or (family, rows) not in _RELEASED_VOCABULARIES:
        return None
    return Namespace(
        num_layers=layers,
        hidden_size=hidden,
        ffn_hidden_size=inner[0],
        num_attention_heads=_RELEASED[layers, hidden],
        max_position_embeddings=positions[0],
        vocab_size=_RELEASED_VOCABULARIES[family, rows],
    )


def architecture(blueprint: Blueprint) -> dict[str, Any]:
    """The arguments that say what the Transformer is made of; those of a file without them are GPT's."""
    return {
        "swiglu": blueprint.activation == "swiglu",
        "normalization": "RMSNorm" if blueprint.norm == "rms" else "LayerNorm",
        "position_embedding_type": "rope" if blueprint.positions == "rotary" else "learned_absolute",
        "add_bias_linear": blueprint.bias,
        "add_qkv_bias": blueprint.qkv_bias,
        POST_LN: blueprint.order == "post",
    }


def misfits(family: type[Family], args: object) -> int:
    """In how much the arguments describe another model than the family's where the tensors are the same: whether norms
    stand after the sums (BERT), and whether there is a sliding window (Llama and Mistral)."""
    values = vars(args) if isinstance(args, Namespace) else args
    told = values if isinstance(values, dict) else {}
    post, window = bool(told.get(POST_LN)), bool(told.get("window_size"))
    return (post != (family.blueprint.order == "post")) + (window and not family.blueprint.window)


def make_args(meta: Meta, padded_vocab_size: int, options: WriteOptions, dtype: torch.dtype) -> Namespace:
    """The arguments that Megatron-LM compares when it loads, and those that say what the model is."""
    config, tp, pp, vpp = meta.config, options.tp, options.pp, options.vpp
    blueprint = families.get(config.family).blueprint
    return Namespace(
        **architecture(blueprint),
        num_layers=config.num_layers,
        hidden_size=config.hidden_size,
        ffn_hidden_size=config.ffn_size,
        num_attention_heads=config.num_attention_heads,
        group_query_attention=config.query_groups != config.num_attention_heads,
        num_query_groups=config.query_groups,
        kv_channels=config.head_dim,
        max_position_embeddings=config.positions,
        seq_length=config.seq_length,
        encoder_seq_length=config.seq_length,
        layernorm_epsilon=config.layernorm_epsilon,
        norm_epsilon=config.layernorm_epsilon,
        hidden_dropout=config.hidden_dropout,
        attention_dropout=config.attention_dropout,
        init_method_std=config.init_std,
        make_vocab_size_divisible_by=config.make_vocab_size_divisible_by,
        vocab_size=config.vocab_size,
        padded_vocab_size=padded_vocab_size,
        tokenizer_type="GPT2BPETokenizer" if blueprint.causal else "BertWordPieceLowerCase",
        tensor_model_parallel_size=tp,
        pipeline_model_parallel_size=pp,
        virtual_pipeline_model_parallel_size=vpp if vpp > 1 else None,
        num_layers_per_virtual_pipeline_stage=config.num_layers // (pp * vpp) if vpp > 1 else None,
        untie_embeddings_and_output_weights=config.untie_embeddings_and_output_weights,
        bias_gelu_fusion=blueprint.activation == "gelu-tanh",
        openai_gelu=False,
        bert_binary_head=config.head == "pretraining",
        rotary_base=config.rotary_base,
        rotary_percent=config.rotary_percent,
        use_rope_scaling=config.rope_scaling_factor != 1,
        rope_scaling_factor=config.rope_scaling_factor,
        window_size=None if config.sliding_window is None else (config.sliding_window - 1, 0),
        mcc_family=config.family,  # families may differ by less than their tensors
        params_dtype=dtype,
        fp16=dtype == torch.float16,
        bf16=dtype == torch.bfloat16,
        iteration=meta.iteration,
        consumed_train_samples=meta.extra.get("consumed_samples", 0),
        consumed_valid_samples=0,
    )


def require_megatron(family: Family, config: ModelConfig, version: float) -> None:
    """Refuse a model that Megatron-LM's files of `version` cannot hold.

    Raises:
        UsageError: Megatron-LM has no such model, or not in that version.
    """
    if not all(row.megatron for _, row, _ in family.table(config)):
        raise UsageError(
            f"Megatron-LM has no model like family {family.name}", "--to hf, --to mcc or --to mcc-safetensors"
        )
    if config.sliding_window is not None and config.sliding_window < config.positions:
        raise UsageError(
            "Megatron-LM's classic models have no sliding window: "
            f"{config.sliding_window} tokens of {config.positions}",
            "--to hf, --to mcc or --to mcc-safetensors",
        )
    if version < 2 and config.query_groups != config.num_attention_heads:
        raise UsageError(
            f"checkpoint version {version:g} has no shared key/value heads (num_query_groups = {config.query_groups})",
            "--megatron-version 3",
        )
    ours = (config.rope_low_freq_factor, config.rope_high_freq_factor, config.rope_original_positions)
    if config.rope_scaling_factor != 1 and ours != (1.0, 4.0, 8192):
        raise UsageError(f"Megatron-LM has Llama 3's rotary scaling with (1, 4, 8192) alone, not {ours}")


def config_from_args(args: object, family: Family, known: dict[str, Any], file: Path) -> ModelConfig:
    """The model that `args` describe.

    Args:
        args: as the file has them.
        family: the family that the file's tensors belong to.
        known: what the tensors tell: values of `ModelConfig` by name.
        file: for messages.

    Raises:
        MccError: an argument is missing, or describes an architecture that the family does not have.
    """
    values = vars(args) if isinstance(args, Namespace) else args
    if not isinstance(values, dict):
        raise MccError(f"{file} has no arguments (args): the model's shape is unknown")
    gpt = architecture(Blueprint())
    for name, fits in {**_REFUSED, **architecture(family.blueprint)}.items():
        if values.get(name, gpt.get(name, fits)) != fits:
            raise MccError(f"{file}: {name} = {values.get(name)!r} is another architecture than {family.name}")
    values = {"layernorm_epsilon": 1e-5, **values}
    try:
        hidden, heads = int(values["hidden_size"]), int(values["num_attention_heads"])
        ffn, channels = values.get("ffn_hidden_size"), values.get("kv_channels")
        groups = int(values["num_query_groups"]) if values.get("group_query_attention") else heads
        return ModelConfig(
            family=family.name,
            num_layers=int(values["num_layers"]),
            hidden_size=hidden,
            num_attention_heads=heads,
            num_query_groups=None if groups == heads else groups,
            kv_channels=None if channels is None or heads * int(channels) == hidden else int(channels),
            ffn_hidden_size=None if ffn in (None, 4 * hidden) else int(ffn),
            seq_length=int(values["max_position_embeddings"]),
            make_vocab_size_divisible_by=int(values.get("make_vocab_size_divisible_by", 128)),
            untie_embeddings_and_output_weights=bool(values.get("untie_embeddings_and_output_weights", False)),
            layernorm_epsilon=float(values["norm_epsilon" if "norm_epsilon" in values else "layernorm_epsilon"]),
            rotary_base=float(values.get("rotary_base", 10000.0)),
            rotary_percent=float(values.get("rotary_percent") or 1.0),
            sliding_window=int(values["window_size"][0]) + 1 if values.get("window_size") else None,
            rope_scaling_factor=float(values.get("rope_scaling_factor", 8.0))
            if values.get("use_rope_scaling")
            else 1.0,
            hidden_dropout=float(values.get("hidden_dropout", 0.0)),
            attention_dropout=float(values.get("attention_dropout", 0.0)),
            init_std=float(values.get("init_method_std", 0.02)),
            **known,
        )
    except KeyError as error:
        raise MccError(f"{file}: the arguments lack {error.args[0]}") from error
    except (TypeError, ValueError) as error:
        raise MccError(f"{file}: the arguments are malformed: {error}") from error
