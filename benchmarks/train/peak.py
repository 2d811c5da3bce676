"""How much memory a piece of work takes, from torch's own record of every allocation, kernels' temporaries included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile


def peak_bytes(work: Callable[[], Any]) -> int:
    """The most that is allocated at a time within `work`, above what was before."""
    return _follow(work)[0]


def kept_bytes(work: Callable[[], Any]) -> int:
    """What is allocated within `work` and still there when it has given its result."""
    return _follow(work)[1]


def _follow(work: Callable[[], Any]) -> tuple[int, int]:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        result = work()
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    del result
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak, now
