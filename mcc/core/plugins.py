"""Plug-ins found by the name of their file: one file each, no list to edit.

A plug-in is the one concrete subclass of a kind's base class that its module defines. Its public name is the
module's name with `-` for `_`. Packages outside mcc add theirs through an entry point of the group `mcc.<kind>`,
with `_` for a space: `mcc.codec`, `mcc.checkpoint_format`.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Generic, TypeVar, get_origin

from mcc.core.errors import MccError, unknown

Base = TypeVar("Base")


@dataclass(frozen=True)
class Kind(Generic[Base]):
    """A kind of plug-in.

    Args:
        name: singular, for messages and for the entry-point group: `codec` -> `mcc.codec`.
        package: the package whose modules are the built-in plug-ins.
        base: the class that a plug-in derives from.
    """

    name: str
    package: str
    base: type[Base]

    def names(self) -> list[str]:
        """Every name that `get` knows, sorted."""
        return sorted({*_builtin(self.package), *_installed(self.name)})

    def get(self, name: str) -> type[Base]:
        """The plug-in class called `name`.

        Raises:
            UsageError: no plug-in has that name; the nearest one is suggested.
        """
        public = name.replace("_", "-")
        if public in _builtin(self.package):
            return self._only_class(import_module(f"{self.package}.{public.replace('-', '_')}"))
        if public in _installed(self.name):
            loaded = _installed(self.name)[public].load()
            return self._only_class(loaded) if isinstance(loaded, ModuleType) else loaded
        raise unknown(self.name, name, self.names())

    def all(self) -> Iterator[tuple[str, type[Base]]]:
        """Every plug-in with its name, in order of name."""
        for name in self.names():
            yield name, self.get(name)

    def describe(self, name: str) -> str:
        """The first line of the plug-in's documentation."""
        return (inspect.getdoc(self.get(name)) or "").partition("\n")[0]

    def _only_class(self, module: ModuleType) -> type[Base]:
        found = [
            value
            for value in vars(module).values()
            if inspect.isclass(value)
            and get_origin(value) is None  # Python 3.10 takes list[int] for a class
            and issubclass(value, self.base)
            and value.__module__ == module.__name__
            and not inspect.isabstract(value)
            and not value.__name__.startswith("_")
        ]
        if len(found) != 1:
            raise MccError(
                f"{self.name} module {module.__name__} defines {len(found)} public {self.base.__name__} classes",
                "a plug-in file defines exactly one",
            )
        return found[0]


@cache
def _builtin(package: str) -> frozenset[str]:
    path = import_module(package).__path__
    # Folders hold what the plug-ins share; only files are plug-ins.
    return frozenset(
        module.name.replace("_", "-")
        for module in pkgutil.iter_modules(path)
        if not module.ispkg and not module.name.startswith("_")
    )


def _installed(kind: str) -> dict[str, EntryPoint]:
    group = f"mcc.{kind.replace(' ', '_')}"  # packaging allows letters, digits and underscores
    return {point.name.replace("_", "-"): point for point in entry_points(group=group)}
