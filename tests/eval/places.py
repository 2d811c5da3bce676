"""Collective functions of `mcc.eval` on forked ranks: what `on_ranks` does, without starting Python for each."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import torch.distributed as dist

from tests.ranks import run_ranks

Call = tuple[Callable[..., Any], Mapping[str, Any]]


def on_places(world: int, *calls: Call) -> list[Any]:
    """What rank 0 of `world` returns from each call: (function of a module, its arguments)."""
    found: list[Any] = run_ranks(_all, world, calls)[0]
    return found


def _all(calls: list[Call]) -> list[Any]:
    rank, world = str(dist.get_rank()), str(dist.get_world_size())
    os.environ |= {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": world}
    found = []
    for function, arguments in calls:
        try:
            found.append(function(**arguments))
        except SystemExit:  # of those that only serve
            found.append(None)
    return found
