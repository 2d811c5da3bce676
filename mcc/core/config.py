"""Configuration: frozen dataclasses, filled from a TOML file and then from flags. Unknown keys are refused.

A configuration class is a frozen dataclass whose fields are plain values or further dataclasses (sections).
The help text of a field stands beside it: `lr: float = option(1e-4, "peak learning rate")`.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from mcc.core.errors import UsageError, nearest
from mcc.core.files import require_file

Config = TypeVar("Config")


def option(default: Any = dataclasses.MISSING, help: str = "", **extra: Any) -> Any:
    """A dataclass field with its help text. `extra` is kept as metadata (`metavar=`, `flag=`)."""
    metadata = {"help": help, **extra}
    if isinstance(default, (list, dict)):
        raise TypeError("a configuration default is immutable: use a tuple")
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Setting:
    """One value of a configuration class: `path` is `section.name`."""

    path: str
    name: str
    type: Any
    default: Any
    help: str
    metadata: Mapping[str, Any]


def settings(cls: type, prefix: str = "") -> Iterator[Setting]:
    """Every plain value of `cls` and of its sections, in order of definition."""
    hints = _hints(cls)
    for field in dataclasses.fields(cls):
        if not field.init:
            continue
        path = f"{prefix}{field.name}"
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            yield from settings(hint, f"{path}.")
            continue
        default = field.default
        if default is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        yield Setting(path, field.name, hint, default, field.metadata.get("help", ""), field.metadata)


def resolve(cls: type[Config], file: str | Path | None = None, flags: Mapping[str, Any] | None = None) -> Config:
    """A checked `cls` from the defaults, then `file` (TOML), then `flags` (`{"section.name": value}`).

    Raises:
        UsageError: the file is not TOML, a key is unknown (the nearest one is suggested), or a value has a wrong type.
    """
    values: dict[str, Any] = {}
    if file is not None:
        values = read_toml(file)
        _refuse_unknown(cls, values, str(file))
    for path, value in (flags or {}).items():
        _put(cls, values, path, value)
    return build(cls, values)


def build(cls: type[Config], values: Mapping[str, Any]) -> Config:
    """A checked `cls` from nested plain values; the inverse of `plain`.

    Raises:
        UsageError: a key is unknown or a value has a wrong type.
    """
    from pydantic import TypeAdapter, ValidationError

    _refuse_unknown(cls, values, "configuration")
    try:
        return TypeAdapter(cls).validate_python(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or cls.__name__
        raise UsageError(f"{where}: {first['msg'][:1].lower()}{first['msg'][1:]}, got {first['input']!r}") from None


def plain(config: Any) -> dict[str, Any]:
    """The nested plain values of a configuration, for JSON and TOML."""
    return dataclasses.asdict(config)


def read_toml(file: str | Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        MccError: there is no such file.
        UsageError: it is not TOML; the message has the line.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(require_file(file, "configuration file").read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} is not TOML: {error}") from error


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _refuse_unknown(cls: type, values: Mapping[str, Any], where: str, prefix: str = "") -> None:
    hints = _hints(cls)
    known = [f.name for f in dataclasses.fields(cls) if f.init]
    for key, value in values.items():
        if key not in known:
            close = nearest(key, known)
            guess = f"; did you mean '{prefix}{close}'?" if close else ""
            raise UsageError(f"{where}: unknown key '{prefix}{key}'{guess}", f"known: {', '.join(known)}")
        hint = hints[key]
        if isinstance(hint, type) and dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
            _refuse_unknown(hint, value, where, f"{prefix}{key}.")


def _put(cls: type, values: dict[str, Any], path: str, value: Any) -> None:
    known = [setting.path for setting in settings(cls)]
    if path not in known:
        close = nearest(path, known)
        guess = f"; did you mean {close!r}?" if close else ""
        raise UsageError(f"unknown setting {path!r}{guess}")
    *sections, name = path.split(".")
    table = values
    for section in sections:
        table = table.setdefault(section, {})
    table[name] = value
