"""Named chains of filters: `presets.toml` beside this file, or a file of the user's own of the same form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mcc.core.config import build, option, read_toml
from mcc.core.errors import UsageError, unknown

_FILE = Path(__file__).with_name("presets.toml")


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Filters in order, with those options that are not their defaults."""

    what: str = option("", "what it does, in a line")
    filters: tuple[str, ...] = option((), "filters, applied in this order")
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    requires: str = option("", "what the user must give besides")


def presets(file: Path = _FILE) -> dict[str, Preset]:
    """The presets in a file.

    Raises:
        UsageError: it is not of the form.
    """
    found = {}
    for name, values in read_toml(file).items():
        if not isinstance(values, Mapping):
            raise UsageError(f"{file}: {name!r} is not a preset", "a preset is a table [NAME] with `filters`")
        found[name] = build(Preset, values)
    return found


def find_preset(name: str) -> Preset:
    """The preset called `name`; `FILE.toml` is one of the user's own, `FILE.toml:NAME` one of several in it.

    Raises:
        MccError: there is no such file.
        UsageError: there is no such preset.
    """
    file, dot, inner = name.partition(".toml")
    if not dot:
        if name not in presets():
            raise unknown("preset", name, presets())
        return presets()[name]
    known = presets(Path(f"{file}.toml"))
    inner = inner.removeprefix(":")
    if inner and inner not in known:
        raise unknown(f"preset in {file}.toml", inner, known)
    if not inner and len(known) != 1:
        raise UsageError(f"{file}.toml holds {len(known)} presets", f"name one: --preset {file}.toml:NAME")
    return known[inner] if inner else next(iter(known.values()))
