"""How the process asks the system for memory."""

from __future__ import annotations

import ctypes
import os
import sys

_TORCH = "THP_MEM_ALLOC_ENABLE"  # c10/core/impl/alloc_cpu.cpp
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # glibc's malloc.h
_KEPT = 32 << 20  # bytes: the most that glibc lets it be


def cheap_blocks() -> bool:
    """Make large blocks of memory cheaper for this process; whether torch, loaded before, has not seen it yet.

    For programs that allocate one after the other. Each begins with pages that the system has to find and to fill with
    zeros, on a virtual machine in more time than what is then done with them takes. So blocks up to 32 MB stay with
    the process when they are freed (glibc), and larger ones come from huge pages (Linux, where they may be asked for):
    were those kept, too, they would fall to pieces, and memory would grow to twice of what is needed. Elsewhere nothing
    changes.

    Torch looks once, when it is loaded: call this before.
    """
    new = _TORCH not in os.environ
    os.environ.setdefault(_TORCH, "1")
    if sys.platform.startswith("linux"):
        try:
            mallopt = ctypes.CDLL(None).mallopt
        except (OSError, AttributeError):  # another C library
            return new
        # One pool for all threads: what one frees another takes, and only the first pool keeps its blocks.
        for name, value in ((_MMAP_THRESHOLD, _KEPT), (_TRIM_THRESHOLD, 2**31 - 1), (_ARENA_MAX, 1)):
            mallopt(name, value)
    return new
