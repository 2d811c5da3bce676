"""What every rank did when: one timeline for Perfetto (ui.perfetto.dev) or chrome://tracing.

A `Recorder` goes where work is done: `with recorder.span("encode", microbatch=3): ...`. It is off until a traced step
begins, and costs a call then. Each rank writes its spans to a part beside the trace; rank 0 merges them. Ranks'
clocks are compared with rank 0's by messages to and fro, as NTP does (RFC 5905, section 8): the shortest of several
round trips tells the difference to within half that trip.

The file is the Trace Event Format's: complete events (`ph` X) in microseconds, a process for a rank, a thread for each
kind of work, the step and the micro-batch among the arguments.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist

from mcc.core.errors import MccError
from mcc.core.files import PARTIAL, atomic_path

# A thread of the timeline each, in this order from the top. A `step` spans all that follows.
KINDS = (
    *("step", "data", "forward", "backward", "encode", "send", "wait", "decode", "reduce", "optimizer"),
    *("evaluate", "save", "log"),
)
# What a step is for; the rest of it is the engine's own.
WORK = frozenset(KINDS) - {"step", "log", "data"}
_ROUND_TRIPS = 8
_NOTHING: AbstractContextManager[None] = nullcontext()


@dataclass(frozen=True)
class Event:
    """One finished span, in nanoseconds of this rank's clock."""

    kind: str
    what: str
    start: int
    end: int
    step: int
    microbatch: int | None


class Recorder:
    """Keeps the spans of one rank while it is on.

    Attributes:
        on: whether spans are kept.
        step: the step that is under way, counted from 1.
        settle: called at the end of a span that computes: waits for the device, whose kernels run on their own.
    """

    def __init__(self, clock: Callable[[], int] = time.perf_counter_ns) -> None:
        self.on = False
        self.step = 0
        self.settle: Callable[[], None] | None = None
        self.clock = clock
        self.events: list[Event] = []
        self.microbatch: int | None = None

    def span(self, kind: str, microbatch: int | None = None, what: str = "") -> AbstractContextManager[Any]:
        """Record the block as `kind`, one of `KINDS`.

        Args:
            kind: the thread of the timeline.
            microbatch: its index; left out, that of the span around it.
            what: more words for the event's name, such as a site.
        """
        return _Span(self, kind, microbatch, what) if self.on else _NOTHING

    @contextmanager
    def messages(self) -> Iterator[None]:
        """Record, within the block, the sends and the waits of torch's pipeline schedules."""
        if not self.on:
            yield
            return
        from torch.distributed.pipelining import schedules

        begin = schedules._batch_p2p

        def batch(ops: list[Any], *args: Any, **kwargs: Any) -> list[Any]:
            with self.span("send", what=str(kwargs.get("desc") or "")):
                return [_Waited(work, self) for work in begin(ops, *args, **kwargs)]

        schedules._batch_p2p = batch
        try:
            yield
        finally:
            schedules._batch_p2p = begin


class _Span:
    __slots__ = ("before", "kind", "microbatch", "recorder", "start", "what")

    def __init__(self, recorder: Recorder, kind: str, microbatch: int | None, what: str) -> None:
        self.recorder, self.kind, self.what = recorder, kind, what
        self.microbatch = recorder.microbatch if microbatch is None else microbatch

    def __enter__(self) -> None:
        self.before, self.recorder.microbatch = self.recorder.microbatch, self.microbatch
        self.start = self.recorder.clock()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        recorder = self.recorder
        if recorder.settle is not None and self.kind in ("forward", "backward", "optimizer", "encode", "decode"):
            recorder.settle()
        end = recorder.clock()
        recorder.events.append(Event(self.kind, self.what, self.start, end, recorder.step, self.microbatch))
        recorder.microbatch = self.before


class _Waited:
    """A communication under way whose waiting is recorded."""

    def __init__(self, work: Any, recorder: Recorder) -> None:
        self._work, self._recorder = work, recorder

    def wait(self, *args: Any) -> Any:
        with self._recorder.span("wait"):
            return self._work.wait(*args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)


def clock_offset(clock: Callable[[], int], group: dist.ProcessGroup | None = None) -> int:
    """By how many nanoseconds this rank's clock is ahead of rank 0's. Collective; `group` takes CPU tensors."""
    rank, world = dist.get_rank(), dist.get_world_size()
    dist.barrier(group=group)
    offset, message = 0, torch.zeros(1, dtype=torch.int64)
    for other in range(1, world):
        if rank not in (0, other):
            continue
        trips = []
        for _ in range(_ROUND_TRIPS):
            if rank == 0:
                sent = clock()
                dist.send(message, other, group=group)
                dist.recv(message, other, group=group)
                back = clock()
                trips.append((back - sent, int(message) - (sent + back) // 2))
            else:
                dist.recv(message, 0, group=group)
                message.fill_(clock())
                dist.send(message, 0, group=group)
        if rank == 0:
            message.fill_(min(trips)[1])
            dist.send(message, other, group=group)
        else:
            dist.recv(message, 0, group=group)
            offset = int(message)
    dist.barrier(group=group)
    return offset


def write(path: Path, recorder: Recorder, place: str, group: dist.ProcessGroup | None = None) -> None:
    """Write all ranks' spans as one trace to `path`, which appears when it is complete. Collective.

    Args:
        path: on a file system that all ranks see.
        recorder: this rank's.
        place: this rank's place in words.
        group: takes CPU tensors.

    Raises:
        MccError: on rank 0 alone: the trace or a rank's part of it could not be written.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    offset = clock_offset(recorder.clock, group)
    starts = [torch.zeros(1, dtype=torch.int64) for _ in range(world)]
    first = min((event.start - offset for event in recorder.events), default=2**62)
    dist.all_gather(starts, torch.tensor([first]), group=group)
    origin = min(int(start) for start in starts)
    part = _part(path, rank)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w", encoding="utf-8") as file:
            for line in _lines(recorder.events, offset + origin, rank, place):
                file.write(json.dumps(line) + "\n")
    except OSError:
        with suppress(OSError):
            part.unlink()  # rank 0 misses it
    dist.barrier(group=group)
    if rank == 0:
        _merge(path, [_part(path, other) for other in range(world)])


def _part(path: Path, rank: int) -> Path:
    return path.with_name(f".{path.name}.rank{rank}{PARTIAL}")


def _lines(events: Iterable[Event], zero: int, rank: int, place: str) -> Iterator[dict[str, Any]]:
    """The trace's events of one rank; `zero` is the trace's beginning by this rank's clock."""
    yield {"ph": "M", "name": "process_name", "pid": rank, "args": {"name": f"rank {rank} ({place})"}}
    yield {"ph": "M", "name": "process_sort_index", "pid": rank, "args": {"sort_index": rank}}
    for tid, kind in enumerate(KINDS):
        yield {"ph": "M", "name": "thread_name", "pid": rank, "tid": tid, "args": {"name": kind}}
        yield {"ph": "M", "name": "thread_sort_index", "pid": rank, "tid": tid, "args": {"sort_index": tid}}
    for event in events:
        args = {"step": event.step} | ({} if event.microbatch is None else {"microbatch": event.microbatch})
        yield {
            "ph": "X",
            "name": f"{event.kind} {event.what}".rstrip(),
            "cat": event.kind,
            "pid": rank,
            "tid": KINDS.index(event.kind),
            "ts": (event.start - zero) / 1000,
            "dur": (event.end - event.start) / 1000,
            "args": args,
        }


def _merge(path: Path, parts: list[Path]) -> None:
    try:
        with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as out:
            out.write('{"displayTimeUnit": "ms", "traceEvents": [')
            comma = "\n"
            for part in parts:
                with part.open(encoding="utf-8") as lines:
                    for line in lines:
                        out.write(comma + line.rstrip("\n"))
                        comma = ",\n"
            out.write("\n]}\n")
    except OSError as error:
        raise MccError(f"cannot write the trace {path}: {error}", "every rank must see its folder") from error
    finally:
        for part in parts:
            with suppress(OSError):
                part.unlink(missing_ok=True)


def seconds(path: Path) -> dict[str, float]:
    """Where the traced steps went: seconds by kind over all ranks, nested spans counted once, innermost first.

    `step` is all of it, and `engine` what no other span covers: the engine's own time.
    """
    events = [e for e in json.loads(path.read_text(encoding="utf-8"))["traceEvents"] if e["ph"] == "X"]
    total: dict[str, float] = defaultdict(float)
    by_rank: dict[int, list[Any]] = defaultdict(list)
    for event in events:
        by_rank[event["pid"]].append((event["ts"], event["ts"] + event["dur"], event["cat"]))
    for spans in by_rank.values():
        steps = [span for span in spans if span[2] == "step"]
        inside = [span for span in spans if any(start <= span[0] < end for start, end, _ in steps)]
        for kind, length in _exclusive(inside).items():
            total["engine" if kind == "step" else kind] += length / 1e6
        total["step"] += sum(end - start for start, end, _ in steps) / 1e6
    return dict(total)


def _exclusive(spans: list[Any]) -> dict[str, float]:
    """Microseconds by kind, each moment counted for the innermost span."""
    found: dict[str, float] = defaultdict(float)
    open_: list[tuple[float, str]] = []
    now = 0.0
    for start, end, kind in sorted(spans, key=lambda s: (s[0], -s[1])):
        while open_ and open_[-1][0] <= start:
            until, inner = open_.pop()
            found[inner] += until - now
            now = until
        if open_:
            found[open_[-1][1]] += start - now
        now = start
        open_.append((min(end, open_[-1][0]) if open_ else end, kind))
    while open_:
        until, inner = open_.pop()
        found[inner] += until - now
        now = until
    return found
