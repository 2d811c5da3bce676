"""Which attempt of a run this is: elastic launchers start the ranks again after a failure, over the store of before.

The launcher's own count will not do. On several machines each agent counts the failures that it saw itself: the one
whose rank died says 1, the others, who only started theirs again, say 0 (torch 2.11 to 2.13). So rank 0 numbers the
attempts, and welcomes the ranks that are there now; what those before left in the store can't be mistaken for them.
"""

from __future__ import annotations

import time
from datetime import timedelta
from uuid import uuid4

import torch.distributed as dist

from mcc.core.errors import MccError

_POLL_S = 0.02


def agree(store: dist.Store, rank: int, world: int, timeout: timedelta, counted: int = 0) -> int:
    """The number of this attempt, counted from 0: the same on every rank. Collective.

    Every rank calls with a word of its own; rank 0 answers that word with the number, and hears that it arrived.

    Args:
        store: that every attempt of the run shares.
        rank: of `world`.
        world: number of ranks.
        timeout: until a rank that does not come is given up.
        counted: what rank 0's launcher says; the number is no smaller.

    Raises:
        MccError: on rank 0, ranks did not come.
    """
    store = dist.PrefixStore("mcc/attempt", store)
    if rank > 0:
        word = uuid4().hex
        store.set(f"hello/{rank}", word)
        store.wait([f"welcome/{word}"], timeout)
        number = int(store.get(f"welcome/{word}"))
        store.set(f"here/{number}/{rank}", "")
        return number
    number = max(counted, store.add("count", 1) - 1)
    missing, until = set(range(1, world)), time.monotonic() + timeout.total_seconds()
    while missing:
        for other in sorted(missing):
            if store.check([f"here/{number}/{other}"]):
                missing.remove(other)
            elif store.check([f"hello/{other}"]):  # perhaps of an attempt before: then nobody hears
                store.set(f"welcome/{store.get(f'hello/{other}').decode()}", str(number))
        if missing and time.monotonic() > until:
            few = ", ".join(str(other) for other in sorted(missing)[:8])
            raise MccError(f"rank {few}{', ...' if len(missing) > 8 else ''} of {world} did not come")
        if missing:
            time.sleep(_POLL_S)
    return number
