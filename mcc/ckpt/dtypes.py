"""Number formats of a checkpoint by name, and the one place that changes them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mcc.core.errors import MccError, unknown

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}
# How `torch.save` calls them. Newer ones have no name there: it keeps their bytes, and the dtype beside them.
STORAGES: dict[torch.dtype, Any] = {
    torch.float64: torch.DoubleStorage, torch.float32: torch.FloatStorage, torch.float16: torch.HalfStorage,
    torch.bfloat16: torch.BFloat16Storage, torch.int64: torch.LongStorage, torch.int32: torch.IntStorage,
    torch.int16: torch.ShortStorage, torch.int8: torch.CharStorage, torch.uint8: torch.ByteStorage,
    torch.bool: torch.BoolStorage,
}  # fmt: skip
STORED = {storage.__name__: dtype for dtype, storage in STORAGES.items()}
_ALIASES = {"fp32": "float32", "fp16": "float16", "half": "float16", "bf16": "bfloat16"}


def dtype_named(name: str) -> torch.dtype:
    """The dtype called `name` (`float32`, `fp32`, `bf16`, ...).

    Raises:
        UsageError: no dtype has that name.

    >>> dtype_named("bf16")
    torch.bfloat16
    """
    full = _ALIASES.get(name, name)
    if full not in DTYPES:
        raise unknown("dtype", name, [*DTYPES, *_ALIASES])
    return DTYPES[full]


def dtype_name(dtype: torch.dtype) -> str:
    """`torch.float32` -> `float32`."""
    return str(dtype).removeprefix("torch.")


def cast_dtype(stored: torch.dtype, dtype: torch.dtype | None) -> torch.dtype:
    """Of what `cast` makes of a tensor of `stored`.

    >>> cast_dtype(torch.float32, torch.bfloat16), cast_dtype(torch.int64, torch.bfloat16)
    (torch.bfloat16, torch.int64)
    """
    return dtype if dtype is not None and stored.is_floating_point else stored


def cast(tensor: Tensor, dtype: torch.dtype | None, name: str) -> Tensor:
    """`tensor` as `dtype` (unchanged when None or when it does not hold floating-point numbers).

    Raises:
        MccError: a finite number of the tensor called `name` is beyond the range of `dtype`.
    """
    if dtype is None or tensor.dtype == cast_dtype(tensor.dtype, dtype):
        return tensor
    changed = tensor.to(dtype)
    # Only float16 has a smaller range than the formats it may come from.
    if dtype == torch.float16 and not torch.equal(changed.isfinite(), tensor.isfinite()):
        raise MccError(
            f"tensor {name}: {tensor.abs().nan_to_num(posinf=0).max():.4g} is beyond float16's range", "use bfloat16"
        )
    return changed
