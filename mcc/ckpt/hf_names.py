"""transformers' names: which family a config.json is of, and how its tensors have been spelt."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mcc.core.errors import MccError
from mcc.models.base.family import Family, families


def spellings(name: str) -> Iterator[str]:
    """The names that a tensor has had: of a body saved without its head (the first GPT-2), of TensorFlow's norms, of
    GPT-NeoX's output layer in transformers 5 (in memory; its files keep the old name)."""
    for known in (name, name.partition(".")[2]):
        yield known
        if known == "embed_out.weight":
            yield "lm_head.weight"
        if "LayerNorm" in known:
            yield known.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


def read_config(file: Path) -> dict[str, Any]:
    """The values of transformers' config.json.

    Raises:
        MccError: it cannot be read.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MccError(f"{file} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise MccError(f"{file} is not a model's configuration")
    return values


def family_of(values: dict[str, Any], file: Path) -> Family:
    """The family that `values` of `file` name.

    Raises:
        MccError: none is called that.
    """
    known = {plugin.hf_model_type: plugin for _, plugin in families.all()}
    wanted = values.get("model_type")
    if wanted not in known:
        raise MccError(f"{file}: model_type {wanted!r} is none of mcc's families", f"known: {', '.join(sorted(known))}")
    return known[wanted]()
