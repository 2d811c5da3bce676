"""The kernels on the CPU, on one thread. `quantize`: two passes over the cache instead of a dozen over memory."""

from __future__ import annotations

import torch
from torch import Tensor

from mcc.train.compress.kernels.compiled import decoder, encoder
from mcc.train.compress.kernels.layout import Layout
from mcc.train.compress.kernels.thin import orthonormalizer

_SHORT = torch.bfloat16


def encode(x: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """x[count values] as scales[groups] and packed levels."""
    if x.dtype not in (torch.float32, _SHORT):
        x = x.float()
    x = x.contiguous()
    assert x.numel() == layout.count, f"{x.numel()} values for {layout}"
    scale = torch.empty(layout.groups, dtype=_SHORT)
    packed = torch.empty(layout.packed, dtype=torch.uint8)
    encoder()(
        *(layout.bits, layout.columns, layout.size, x.dtype is _SHORT, x.data_ptr(), layout.count),
        *(scale.data_ptr(), layout.groups, packed.data_ptr(), layout.packed),
    )
    return scale, packed


def decode(scale: Tensor, packed: Tensor, layout: Layout, dtype: torch.dtype, total: Tensor | None) -> Tensor:
    """The values[count] of `dtype`; or `total`, an fp32 tensor to which they are added, rounded to `dtype`."""
    if dtype not in (torch.float32, _SHORT):
        values = decode(scale, packed, layout, torch.float32, None).to(dtype)
        return values if total is None else total.view(-1).add_(values)
    scale, packed = scale.contiguous(), packed.contiguous()
    out = torch.empty(layout.count, dtype=dtype) if total is None else total
    found = (scale.numel(), packed.numel(), out.numel())
    assert found == (layout.groups, layout.packed, layout.count), f"{found} for {layout}"
    decoder()(
        *(layout.bits, layout.columns, layout.size, dtype is _SHORT, total is not None, out.data_ptr(), layout.count),
        *(scale.data_ptr(), layout.groups, packed.data_ptr(), layout.packed),
    )
    return out


def orthonormal(p_rn: Tensor) -> Tensor | None:
    """Orthonormal rows that span those of fp32 p[..., r, n], r at most n; None where QR is needed."""
    p_rn = p_rn.contiguous()
    out, program = torch.empty_like(p_rn), orthonormalizer()
    *_, r, n = p_rn.shape
    first, into = p_rn.data_ptr(), out.data_ptr()
    for at in range(0, p_rn.nbytes, 4 * r * n):
        if not program(r, n, first + at, into + at):
            return None
    return out
