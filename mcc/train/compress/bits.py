"""Packing of unsigned integers: b bits each, nothing wasted but the end of the last group.

`pack_bits` has values of 1 to 8 bits, `pack_wide` of any width.
"""

from __future__ import annotations

import torch
from torch import Tensor

_GROUP = 8  # values that share a 64-bit word while they are packed: 8 values of b bits are b whole bytes


def packed_bytes(count: int, bits: int) -> int:
    """Bytes that `pack_bits` gives for `count` values.

    >>> packed_bytes(10, 4), packed_bytes(16, 3), packed_bytes(9, 3)
    (5, 6, 6)
    """
    return -(-count * bits // 8) if 8 % bits == 0 else -(-count // _GROUP) * bits


def pack_bits(q: Tensor, bits: int) -> Tensor:
    """uint8 q[count], each below 2**bits, as uint8 [packed_bytes(count, bits)], the first value in the lowest bits."""
    if bits == 8:
        return q
    group = 8 // bits if 8 % bits == 0 else _GROUP
    short = -q.numel() % group
    if short:
        q = torch.cat([q, q.new_zeros(short)])
    columns = q.view(-1, group)
    if 8 % bits == 0:
        packed = columns[:, 0].clone()
        for i in range(1, group):
            packed |= columns[:, i] << (i * bits)
        return packed
    words = (columns.long() << _shifts(bits, q.device)).sum(1)  # disjoint bits: the sum is their union
    return words.view(torch.uint8).view(-1, 8)[:, :bits].reshape(-1)


def unpack_bits(packed: Tensor, bits: int, count: int) -> Tensor:
    """The inverse of `pack_bits`: uint8 [count].

    >>> unpack_bits(pack_bits(torch.tensor([1, 6, 3], dtype=torch.uint8), 3), 3, 3).tolist()
    [1, 6, 3]
    """
    if bits == 8:
        return packed
    mask = 2**bits - 1
    if 8 % bits == 0:
        q = torch.stack([(packed >> (i * bits)) & mask for i in range(8 // bits)], dim=1)
        return q.view(-1)[:count]
    words = packed.new_zeros(packed.numel() // bits, 8)
    words[:, :bits] = packed.view(-1, bits)
    q = (words.view(torch.int64) >> _shifts(bits, packed.device)) & mask
    return q.to(torch.uint8).view(-1)[:count]


def bits_for(values: int) -> int:
    """The fewest bits that tell `values` values apart.

    >>> bits_for(1), bits_for(256), bits_for(257)
    (0, 8, 9)
    """
    return max(values - 1, 0).bit_length()


def wide_bytes(count: int, bits: int) -> int:
    """Bytes that `pack_wide` gives for `count` values."""
    return count * (bits // 8) + (packed_bytes(count, bits % 8) if bits % 8 else 0)


def pack_wide(q: Tensor, bits: int) -> Tensor:
    """int64 q[count], each in [0, 2**bits), as uint8 [wide_bytes(count, bits)].

    The low bytes of all values come first, then the next, and at last the bits that fill no byte, packed.
    """
    planes = [((q >> shift) & 255).to(torch.uint8) for shift in range(0, bits - 7, 8)]
    if bits % 8:
        planes.append(pack_bits((q >> (bits - bits % 8)).to(torch.uint8), bits % 8))
    return torch.cat(planes) if planes else q.new_empty(0, dtype=torch.uint8)


def unpack_wide(packed: Tensor, bits: int, count: int) -> Tensor:
    """The inverse of `pack_wide`: int64 [count].

    >>> unpack_wide(pack_wide(torch.tensor([1000, 3]), 10), 10, 2).tolist()
    [1000, 3]
    """
    q = torch.zeros(count, dtype=torch.int64, device=packed.device)
    for plane in range(bits // 8):
        q |= packed[plane * count : (plane + 1) * count].long() << (8 * plane)
    if bits % 8:
        rest = packed[bits // 8 * count :]
        q |= unpack_bits(rest, bits % 8, count).long() << (bits - bits % 8)
    return q


def _shifts(bits: int, device: torch.device) -> Tensor:
    return torch.arange(0, _GROUP * bits, bits, device=device)
