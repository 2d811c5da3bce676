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
