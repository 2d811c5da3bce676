"""What libraries tell about their progress. They emit; `mcc.cli` decides how it looks (rich, or nothing)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TypeVar

Item = TypeVar("Item")


class Task(Protocol):
    """One piece of long work under way."""

    def advance(self, amount: float = 1.0) -> None:
        """Say that `amount` more units are done."""

    def describe(self, text: str) -> None:
        """Replace the short text beside the bar (a loss, a file name)."""


class Reporter(Protocol):
    """Receives events. The default, `SILENT`, drops them."""

    def task(self, label: str, total: float | None = None, unit: str = "") -> AbstractContextManager[Task]:
        """Start a piece of work of `total` units; use it in a `with` statement."""

    def note(self, text: str) -> None:
        """A line worth reading: a step ended, a file was written."""

    def warn(self, text: str) -> None:
        """Something that the user may not have meant."""


class _SilentTask:
    def advance(self, amount: float = 1.0) -> None:
        pass

    def describe(self, text: str) -> None:
        pass


class Silent:
    """A reporter that drops every event."""

    @contextmanager
    def task(self, label: str, total: float | None = None, unit: str = "") -> Iterator[Task]:
        yield _SilentTask()

    def note(self, text: str) -> None:
        pass

    def warn(self, text: str) -> None:
        pass


SILENT: Reporter = Silent()


def track(
    items: Iterable[Item], reporter: Reporter, label: str, total: float | None = None, unit: str = ""
) -> Iterator[Item]:
    """Yield `items`, reporting each one.

    >>> list(track("ab", SILENT, "letters"))
    ['a', 'b']
    """
    with reporter.task(label, total, unit) as task:
        for item in items:
            yield item
            task.advance()
