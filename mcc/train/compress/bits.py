"""Packing of small unsigned integers: b bits each, 1 <= b <= 8, nothing wasted but the last byte."""

from __future__ import annotations

import torch
from torch import Tensor


def packed_bytes(count: int, bits: int) -> int:
    """Bytes that `pack_bits` gives for `count` values.

    >>> packed_bytes(10, 4), packed_bytes(16, 3), packed_bytes(9, 3)
    (5, 6, 6)
    """
    return -(-count // _per_group(bits)) * _group_bytes(bits)


def _per_group(bits: int) -> int:
    return 8 // bits if 8 % bits == 0 else 8


def _group_bytes(bits: int) -> int:
    return 1 if 8 % bits == 0 else bits


def pack_bits(q: Tensor, bits: int) -> Tensor:
    """uint8 q[count], each below 2**bits, as uint8 [packed_bytes(count, bits)].

    Where `bits` divides 8, a byte holds 8/bits neighbours, the first in the low bits. Otherwise eight neighbours
    become `bits` bytes, byte j holding bit j of each.
    """
    if bits == 8:
        return q
    group = _per_group(bits)
    short = -q.numel() % group
    if short:
        q = torch.cat([q, q.new_zeros(short)])
    columns = q.view(-1, group)
    if 8 % bits == 0:
        packed = columns[:, 0].clone()
        for i in range(1, group):
            packed |= columns[:, i] << (i * bits)
        return packed
    planes = torch.zeros(columns.shape[0], bits, dtype=torch.uint8, device=q.device)
    for j in range(bits):
        for i in range(8):
            planes[:, j] |= ((columns[:, i] >> j) & 1) << i
    return planes.view(-1)


def unpack_bits(packed: Tensor, bits: int, count: int) -> Tensor:
    """The inverse of `pack_bits`: uint8 [count].

    >>> unpack_bits(pack_bits(torch.tensor([1, 6, 3], dtype=torch.uint8), 3), 3, 3).tolist()
    [1, 6, 3]
    """
    if bits == 8:
        return packed
    group = _per_group(bits)
    if 8 % bits == 0:
        mask = 2**bits - 1
        q = torch.stack([(packed >> (i * bits)) & mask for i in range(group)], dim=1)
        return q.view(-1)[:count]
    planes = packed.view(-1, bits)
    q = torch.zeros(planes.shape[0], 8, dtype=torch.uint8, device=packed.device)
    for i in range(8):
        for j in range(bits):
            q[:, i] |= ((planes[:, j] >> i) & 1) << j
    return q.view(-1)[:count]
