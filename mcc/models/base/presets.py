"""Models by name: `mcc/models/presets.toml`."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from mcc.core.config import build, read_toml
from mcc.core.errors import unknown
from mcc.models.base.config import ModelConfig

_FILE = Path(__file__).parents[1] / "presets.toml"


def names() -> list[str]:
    """Every preset, in the file's order: by family, small to large."""
    return list(_tables())


def values(name: str) -> dict[str, Any]:
    """The values of `ModelConfig` that the preset `name` sets.

    Raises:
        UsageError: there is no such preset; the nearest one is suggested.
    """
    if name not in _tables():
        raise unknown("model", name, names())
    return {key: value for key, value in _tables()[name].items() if key != "source"}


def source(name: str) -> str:
    """Where the sizes of the preset `name` are from."""
    return str(_tables()[name]["source"])


def preset(name: str) -> ModelConfig:
    """The configuration of the preset `name`.

    >>> preset("gpt2-345m").hidden_size
    1024
    """
    return build(ModelConfig, values(name))


@cache
def _tables() -> dict[str, dict[str, Any]]:
    return read_toml(_FILE)
