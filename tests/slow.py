"""Tests that are more of a kind: a few of them run with every change, all of them with `make slow`."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any

import pytest


def of_every_change(names: Iterable[str], fast: Container[str]) -> list[Any]:
    """The names as parameters of a test, those that are not in `fast` marked as slow."""
    return [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in names]
