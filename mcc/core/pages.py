"""How the C library keeps memory."""

from __future__ import annotations

import ctypes
import sys

# glibc's malloc.h
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_pages() -> bool:
    """Have glibc keep large blocks that are freed, for this process from now on; whether it does.

    By default it gives them back to the system at once, so that the next tensor begins with pages which the system
    has to find and to fill with zeros: on a virtual machine that takes longer than what is then done with them.
    For programs that allocate one large block after the other; memory stays at its peak.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    # One pool for all threads: what one frees another takes, and only the first pool keeps its blocks.
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_ARENA_MAX, 1))
    done = [bool(mallopt(name, value)) for name, value in settings]
    return all(done)
