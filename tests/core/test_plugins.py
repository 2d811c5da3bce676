"""Plug-ins: one file each, found by its name, or through an entry point."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from mcc.core import plugins
from mcc.core.errors import MccError, UsageError
from mcc.core.plugins import Kind

BASE = """
from abc import ABC, abstractmethod
class Filter(ABC):
    @abstractmethod
    def keep(self, text): ...
"""
GOOD = """
from toys import Filter
Names = list[str]
class Helper: pass
class _Private(Filter):
    def keep(self, text): return False
class Abstract(Filter): pass
class Short{name}(Filter):
    \"\"\"Drop short texts.

    More.\"\"\"
    def keep(self, text): return True
"""


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kind]:
    """A package `toys` of filters: `word-count`, `length`; `_shared` and the folder `deep` are no plug-ins."""
    package = tmp_path / "toys"
    (package / "deep").mkdir(parents=True)
    (package / "deep" / "__init__.py").write_text("")
    (package / "__init__.py").write_text(BASE)
    (package / "_shared.py").write_text("")
    (package / "word_count.py").write_text(GOOD.format(name="Words"))
    (package / "length.py").write_text(GOOD.format(name="Length"))
    monkeypatch.syspath_prepend(tmp_path)
    plugins._builtin.cache_clear()
    from toys import Filter  # type: ignore[import-not-found]

    yield Kind(name="toy filter", package="toys", base=Filter)
    plugins._builtin.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "toys"]:
        del sys.modules[name]


def installed(monkeypatch: pytest.MonkeyPatch, **points: str) -> None:
    def entry_points(group: str) -> list[EntryPoint]:
        assert group == "mcc.toy_filter"
        return [EntryPoint(name=name, value=value, group=group) for name, value in points.items()]

    monkeypatch.setattr(plugins, "entry_points", entry_points)


def test_files_are_plugins_by_name(toys: Kind) -> None:
    assert toys.names() == ["length", "word-count"]
    assert toys.get("word-count").__name__ == "ShortWords"
    assert toys.get("word_count") is toys.get("word-count")
    assert [(name, found.__name__) for name, found in toys.all()] == [
        ("length", "ShortLength"),
        ("word-count", "ShortWords"),
    ]
    assert toys.describe("length") == "Drop short texts."


def test_an_unknown_name_suggests_the_nearest(toys: Kind) -> None:
    with pytest.raises(UsageError) as caught:
        toys.get("word-cuont")
    assert caught.value.what == "unknown toy filter 'word-cuont'; did you mean 'word-count'?"
    assert caught.value.hint == "known: length, word-count"


@pytest.mark.parametrize("name", ["_shared", "deep", "length.py", "../length", ""])
def test_what_is_no_plugin_has_no_name(toys: Kind, name: str) -> None:
    with pytest.raises(UsageError, match="unknown toy filter"):
        toys.get(name)


@pytest.mark.parametrize(
    ("text", "count"), [("", 0), (GOOD.format(name="A") + GOOD.format(name="B"), 2), ("from toys.length import *", 0)]
)
def test_a_file_defines_exactly_one(toys: Kind, tmp_path: Path, text: str, count: int) -> None:
    (tmp_path / "toys" / "wrong.py").write_text(text)
    with pytest.raises(MccError, match=f"toy filter module toys.wrong defines {count} public Filter classes"):
        toys.get("wrong")


def test_installed_packages_add_theirs(toys: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere.py").write_text(GOOD.format(name="Elsewhere"))
    installed(monkeypatch, by_class="elsewhere:ShortElsewhere", by_module="elsewhere", length="elsewhere")
    assert toys.names() == ["by-class", "by-module", "length", "word-count"]
    assert toys.get("by-class").__name__ == toys.get("by-module").__name__ == "ShortElsewhere"
    assert toys.get("length").__name__ == "ShortLength", "a built-in plug-in is not replaced behind the user's back"
    sys.modules.pop("elsewhere")
