"""How torch asks the system for memory."""

from __future__ import annotations

import os

_TORCH = "THP_MEM_ALLOC_ENABLE"  # c10/core/impl/alloc_cpu.cpp


def huge_pages() -> bool:
    """Have torch take its tensors from huge pages, in this process and its children; whether that is new.

    For programs that allocate one large block after the other: each begins with pages that the system has to find and
    to fill with zeros, which takes longer than what is then done with them, but for 2 MB at a time a quarter of that
    (Linux's transparent huge pages, where they are on or may be asked for; elsewhere nothing changes). To keep freed
    blocks in the C library instead is as fast, but they fall to pieces, and memory grows to twice of what is needed.

    Torch looks once, when it is loaded: call this before.
    """
    new = _TORCH not in os.environ
    os.environ.setdefault(_TORCH, "1")
    return new
