"""Which values of a flat tensor share a scale, and in how many bits they are packed."""

from __future__ import annotations

from dataclasses import dataclass

from mcc.train.compress.bits import packed_bytes
from mcc.train.compress.groups import Groups


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a kernel of `quantize` is told about a tensor.

    Args:
        bits: of a value, 1 to 8.
        count: values of the tensor.
        groups: scales.
        columns: values of a column share a scale; otherwise values one after the other do.
        size: with `columns` values of a row, otherwise of a group (the last may have fewer).
        packed: bytes of the packed values.
    """

    bits: int
    count: int
    groups: int
    columns: bool
    size: int
    packed: int

    @staticmethod
    def of(groups: Groups, bits: int) -> Layout:
        """The layout of tensors of which `groups` tells."""
        columns, count = groups.dim == 0, groups.values
        size = groups.count if columns else groups.size
        packed = packed_bytes(count, bits)
        return Layout(bits=bits, count=count, groups=groups.count, columns=columns, size=size, packed=packed)
