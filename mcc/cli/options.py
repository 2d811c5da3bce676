"""Command-line flags from a configuration dataclass, so that a setting is named, typed and explained in one place.

`lr: float = option(1e-4, "peak learning rate")` of the section `optim` becomes `--lr`, under the help panel "Optim",
with its default; the command receives `{"optim.lr": 3e-4}` and only what the user gave, ready for
`mcc.core.config.resolve(Class, file, settings)`. The app's `rich_markup_mode` is "rich".
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
from collections.abc import Callable, Collection, Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer

from mcc.core import config
from mcc.core.config import Setting

_PLAIN = (bool, int, float, str, Path)
_CONTEXT = "context_"


def flags(
    config_class: type, *, skip: Collection[str] = (), aliases: Mapping[str, tuple[str, ...]] | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a typer command one flag for every setting of `config_class`.

    The command function has a keyword `settings: dict[str, Any]`; it gets `{path: value}` of the flags that stand on
    the command line. A flag's name is `--` and the field's name, or the field's metadata `flag=` (`""`: no flag); its
    placeholder is the metadata `metavar=`. A `bool` is `--x/--no-x`, a `tuple[T, ...]` a flag that may be repeated.

    Args:
        skip: paths (`"model.vocab_size"`) or sections (`"model"`) that get no flag.
        aliases: further names by path: `{"parallel.tensor": ("--tp",)}`.

    Raises:
        TypeError: our own mistake: two settings want one flag, a type has no flag form, a path does not exist.
    """
    aliases = aliases or {}
    chosen = [s for s in config.settings(config_class) if not _skipped(s, skip)]
    paths = {setting.path for setting in config.settings(config_class)}
    for path in {*skip, *aliases}:
        if not any(known == path or known.startswith(f"{path}.") for known in paths):
            raise TypeError(f"{config_class.__name__} has no setting {path!r}")

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        own = inspect.signature(function, eval_str=True)
        parameters = {name: parameter for name, parameter in own.parameters.items() if name != "settings"}
        if len(parameters) == len(own.parameters):
            raise TypeError(f"{function.__name__} needs a keyword 'settings'")
        context = next((name for name, p in parameters.items() if p.annotation is typer.Context), None)
        taken = {flag: name for name, parameter in parameters.items() for flag in _declared(parameter)}
        added = {}
        for setting in chosen:
            names = _names(setting, aliases.get(setting.path, ()))
            for flag in (part for name in names for part in name.split("/")):
                if flag in taken:
                    raise TypeError(f"{flag} is wanted by both {taken[flag]} and {setting.path}")
                taken[flag] = setting.path
            added[setting.path.replace(".", "__")] = (setting, _parameter(setting, names))

        @functools.wraps(function)
        def command(**given: Any) -> Any:
            ctx = given[context] if context else given.pop(_CONTEXT)
            values = {name: given.pop(name) for name in added}
            settings = {
                setting.path: tuple(values[name]) if isinstance(values[name], list) else values[name]
                for name, (setting, _) in added.items()
                if (source := ctx.get_parameter_source(name)) is not None and source.name == "COMMANDLINE"
            }
            return function(**given, settings=settings)

        everything = [p.replace(kind=p.KEYWORD_ONLY) for p in parameters.values()] + [p for _, p in added.values()]
        if context is None:
            everything.append(_keyword(_CONTEXT, typer.Context, inspect.Parameter.empty))
        command.__signature__ = own.replace(parameters=everything)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in everything}
        return command

    return decorate


def _skipped(setting: Setting, skip: Collection[str]) -> bool:
    return setting.metadata.get("flag") == "" or any(
        setting.path == path or setting.path.startswith(f"{path}.") for path in skip
    )


def _names(setting: Setting, aliases: tuple[str, ...]) -> list[str]:
    names = list(dict.fromkeys([setting.metadata.get("flag", f"--{setting.name.replace('_', '-')}"), *aliases]))
    if _inner(setting.type) is bool:
        names = [f"{name}/--no-{name.removeprefix('--')}" for name in names]
    return names


def _parameter(setting: Setting, names: list[str]) -> inspect.Parameter:
    section = setting.path.rpartition(".")[0].replace(".", " ").replace("_", " ")
    required = setting.default is dataclasses.MISSING
    option = typer.Option(
        *names,
        help=_escaped(setting.help + (" [required here or in the file]" if required else "")),
        metavar=setting.metadata.get("metavar"),
        rich_help_panel=section.capitalize() or None,
    )
    default = None if required else setting.default
    annotation = _annotation(setting)
    if get_origin(annotation) is list:
        default = None if default is None else list(default)
    return _keyword(setting.path.replace(".", "__"), Annotated[annotation | None, option], default)


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def _escaped(text: str) -> str:
    return text.replace("[", r"\[")  # typer reads help as rich markup


def _inner(hint: Any) -> Any:
    """`X` for `X | None`, else the type itself."""
    if get_origin(hint) in (Union, types.UnionType):
        rest = [part for part in get_args(hint) if part is not type(None)]
        return rest[0] if len(rest) == 1 else hint
    return hint


def _annotation(setting: Setting) -> Any:
    """The type as typer takes it: `tuple[T, ...]` is a list there."""
    inner = _inner(setting.type)
    if get_origin(inner) is tuple:
        parts = get_args(inner)
        if all(part in _PLAIN for part in parts):
            return inner
        if len(parts) == 2 and parts[1] is Ellipsis and _has_form(parts[0]):
            return list[parts[0]]  # type: ignore[valid-type]
    elif _has_form(inner):
        return inner
    raise TypeError(f"{setting.path}: no flag form for {setting.type}; put it into skip=")


def _has_form(hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return all(isinstance(choice, str) for choice in get_args(hint))
    # Python 3.10 takes list[int] for a class.
    return hint in _PLAIN or (isinstance(hint, type) and get_origin(hint) is None and issubclass(hint, Enum))


def _declared(parameter: inspect.Parameter) -> list[str]:
    """The flags that a command's own parameter takes."""
    infos = [*getattr(parameter.annotation, "__metadata__", ()), parameter.default]
    option = next((info for info in infos if isinstance(info, typer.models.OptionInfo)), None)
    if option is None:
        return []
    names = [name for name in (option.default, *(option.param_decls or ())) if isinstance(name, str)]
    return [part for name in names for part in name.split("/") if name.startswith("-")] or [
        f"--{parameter.name.replace('_', '-')}"
    ]
