"""Formats x families x directions: each cell is run, and the table in docs/checkpoints.md is what came of them."""

from __future__ import annotations

import pytest

from mcc.ckpt.format import formats
from mcc.models.base.family import families
from tests.ckpt import cells

CELLS = [(format, family) for format in formats.names() for family in families.names()]


@pytest.mark.parametrize(("format", "family"), CELLS)
def test_cell(format: str, family: str) -> None:
    """Values come back as they went in, the logits with them; what is refused is refused in both places."""
    read, write = (cells.outcome(format, family, direction) for direction in cells.DIRECTIONS)
    plugin = formats.get(format)()
    if plugin.read_only:
        assert plugin.read_only in write.refused
    else:
        assert read == write
    assert family in read.refused or not read.refused


def test_the_page_has_what_came_of_them() -> None:
    assert cells.written() == cells.table(), "python -m tests.ckpt.cells writes the table anew"
