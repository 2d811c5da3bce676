"""transformers' config.json: values checked and converted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mcc.core.errors import MccError, UsageError
from mcc.models.base.config import ModelConfig


def refuse(values: Mapping[str, Any], known: Mapping[str, Sequence[Any]], family: str) -> None:
    """Refuse a configuration with a value that the family does not have; the first known one is the default.

    Raises:
        MccError: names the key and the value.
    """
    for key, fits in known.items():
        if values.get(key, fits[0]) not in fits:
            raise MccError(f"config.json: {key} = {values[key]!r} is not {family}'s", f"known: {fits[0]!r}")


def require_plain_heads(config: ModelConfig) -> None:
    """Refuse what transformers' GPT-2 and BERTs have no words for: shared key/value heads, heads of another width.

    Raises:
        UsageError: the configuration has them.
    """
    if config.query_groups != config.num_attention_heads or config.kv_channels is not None:
        raise UsageError(
            f"transformers' {config.family} has no num_query_groups = {config.query_groups} of "
            f"{config.num_attention_heads} heads with kv_channels = {config.head_dim}",
            "--to mcc, --to mcc-safetensors or --to megatron",
        )


def rope(values: Mapping[str, Any], family: str) -> dict[str, Any]:
    """What config.json says of rotary positions, as values of `ModelConfig`.

    Version 5 of transformers has one table; version 4 has a base, and perhaps a table of the scaling.

    Raises:
        MccError: the wavelengths are scaled in a way that is not Llama 3's.
    """
    table = values.get("rope_parameters") or values.get("rope_scaling") or {}
    kind = table.get("rope_type", table.get("type", "default"))
    if kind not in ("default", "llama3"):
        raise MccError(f"config.json: rotary positions of type {kind!r} are not {family}'s", "known: default, llama3")
    base = table.get("rope_theta") or values.get("rope_theta") or values.get("rotary_emb_base")
    found = {
        "rotary_base": float(base or 10000.0),
        "rotary_percent": float(
            table.get("partial_rotary_factor") or values.get("partial_rotary_factor") or values.get("rotary_pct") or 1.0
        ),
    }
    if kind == "llama3":
        found |= {
            "rope_scaling_factor": float(table["factor"]),
            "rope_low_freq_factor": float(table["low_freq_factor"]),
            "rope_high_freq_factor": float(table["high_freq_factor"]),
            "rope_original_positions": int(table["original_max_position_embeddings"]),
        }
    return found


def rope_values(config: ModelConfig) -> dict[str, object]:
    """The inverse of `rope`, in the spelling that transformers' versions 4 and 5 both read."""
    scaling = None
    if config.rope_scaling_factor != 1:
        scaling = {
            "rope_type": "llama3",
            "factor": config.rope_scaling_factor,
            "low_freq_factor": config.rope_low_freq_factor,
            "high_freq_factor": config.rope_high_freq_factor,
            "original_max_position_embeddings": config.rope_original_positions,
        }
    return {"rope_theta": config.rotary_base, "rope_scaling": scaling}


def head_of(values: Mapping[str, Any], classes: Mapping[str, str]) -> str:
    """The head that `architectures` names; the first of `classes` when it names none.

    Args:
        values: config.json.
        classes: head -> transformers' class.

    Raises:
        MccError: it names a class that the family does not have.
    """
    named = values.get("architectures") or [next(iter(classes.values()))]
    for head, name in classes.items():
        if name in named:
            return head
    raise MccError(f"config.json: no model here is a {', '.join(named)}", f"known: {', '.join(classes.values())}")
