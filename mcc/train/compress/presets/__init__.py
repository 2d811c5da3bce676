"""Published set-ups of compression by name: one TOML file each; the file's name is the preset's.

description = "what it is"
source = "paper, section"
compress = ["SITE=CODEC[:key=value,...]", ...]
[settings]                                  # what else it needs; what the user sets goes first
"parallel.embedding_sync" = "fused"

`--compress NAME` stands for the file's `compress`; a SITE=... beside it replaces that site's. A name that ends with
`.toml` is a file of one's own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mcc.core.config import build, read_toml, settings
from mcc.core.errors import UsageError, unknown
from mcc.train.config import TrainConfig

_FOLDER = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A set-up of compression.

    Attributes:
        description, source: one line each.
        compress: values of `--compress`.
        settings: other settings of a run, by path.
    """

    description: str
    source: str
    compress: tuple[str, ...]
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = {setting.path for setting in settings(TrainConfig)}
        for path in self.settings:
            if path not in known:
                raise unknown("setting", path, known)
        for text in self.compress:
            if "=" not in text:
                raise UsageError(f"{text!r} is not SITE=CODEC[:key=value,...]: a preset names no other preset")
        sites = [text.partition("=")[0] for text in self.compress]
        if len(set(sites)) < len(sites):
            raise UsageError(f"it names a site twice: {', '.join(sites)}")


def names() -> list[str]:
    """Every preset, sorted."""
    return sorted(file.stem for file in _FOLDER.glob("*.toml"))


def preset(name: str) -> Preset:
    """The preset called `name`, or that of a file of one's own.

    Raises:
        UsageError: there is none, or the file is wrong; the message names it.
        MccError: there is no such file.
    """
    if name.endswith(".toml"):
        file = Path(name)
    elif name in names():
        file = _FOLDER / f"{name}.toml"
    else:
        error = unknown("preset", name, names())
        raise UsageError(f"--compress: {error.what}; nor is it SITE=CODEC[:key=value,...]", error.hint)
    values = read_toml(file)
    try:
        return build(Preset, values)
    except UsageError as error:
        raise UsageError(f"preset {file.name}: {error.what}", error.hint) from None


def expand(texts: Iterable[str]) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Values of `--compress` with presets replaced by their sites' codecs, and the other settings they need.

    >>> expand(["cb", "pp.backward=none"])[0]
    ('pp.backward=none',)

    Raises:
        UsageError: as `preset`, or two presets say different things.
    """
    texts = list(texts)
    own = [text for text in texts if "=" in text]
    replaced = {text.partition("=")[0] for text in own}
    by_site: dict[str, tuple[str, str]] = {}
    needed: dict[str, tuple[str, Any]] = {}
    for name in dict.fromkeys(text for text in texts if "=" not in text):
        found = preset(name)
        for text in found.compress:
            site = text.partition("=")[0]
            if site in by_site and by_site[site][1] != text and site not in replaced:
                raise UsageError(f"--compress: presets {by_site[site][0]} and {name} both compress {site}")
            by_site[site] = name, text
        for path, value in found.settings.items():
            if path in needed and needed[path][1] != value:
                raise UsageError(f"--compress: presets {needed[path][0]} and {name} set {path} differently")
            needed[path] = name, value
    kept = [text for site, (_, text) in by_site.items() if site not in replaced]
    return (*kept, *own), {path: value for path, (_, value) in needed.items()}


def with_presets(config: TrainConfig, given: Collection[str] | None = None) -> TrainConfig:
    """`config` with its presets replaced by what they stand for.

    Args:
        given: paths of settings that the user set, which presets leave alone; None: those that are not the default.

    Raises:
        UsageError: as `expand`.
    """
    if all("=" in text for text in config.compress):
        return config
    texts, needed = expand(config.compress)
    default = TrainConfig()
    for path, value in needed.items():
        set_here = _get(config, path) != _get(default, path) if given is None else path in given
        if not set_here:
            config = _put(config, path, value)
    return dataclasses.replace(config, compress=texts)


def _get(config: Any, path: str) -> Any:
    for name in path.split("."):
        config = getattr(config, name)
    return config


def _put(config: Any, path: str, value: Any) -> Any:
    name, _, rest = path.partition(".")
    inner = _put(getattr(config, name), rest, value) if rest else value
    return build(type(config), {**_shallow(config), name: inner})


def _shallow(config: Any) -> dict[str, Any]:
    return {item.name: getattr(config, item.name) for item in dataclasses.fields(config) if item.init}
