"""Documents in random order, however many: every document gets a random key, and the keys are sorted.

The key is a hash of the seed and the document's place, so that any number of processes give the same order. Keys are
sorted in buckets by their size, and only a bucket at a time is in memory; the order does not depend on how many there
are. A bucket that came out too large is split once more.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mcc.core.config import option
from mcc.core.errors import UsageError
from mcc.core.events import SILENT, Reporter
from mcc.data.base.blocks import Block, RecordSource, Source
from mcc.data.base.job import Apply, Job, Map, run, step_report
from mcc.data.base.part import Part
from mcc.data.base.publish import Output, records_path
from mcc.data.base.records import PARQUET, ReadConfig
from mcc.data.base.step import StepReport, side_path
from mcc.data.base.streams import COMPRESSIONS
from mcc.data.base.work import Work

# Key and length of a stored line, which follows.
_HEAD = struct.Struct("<QQ")
# What text shrinks to when compressed, roughly; only the number of buckets depends on it.
_EXPANSION = 6
_MAX_BUCKETS = 256  # open files
# A bucket may be so much larger than wanted before it is split.
_TOO_LARGE = 1.5
_READ_BYTES, _BUFFER_BYTES = 4 << 20, 1 << 16
_SPLIT = "split-"


@dataclass(frozen=True, kw_only=True)
class ShuffleConfig:
    """The order, and the memory it may take.

    Raises:
        UsageError: `bucket_bytes` is not positive.
    """

    seed: int = option(1234, "seed of the order")
    bucket_bytes: int = option(4 << 20, "text that a process sorts at once, about")
    workers: int = option(1, "processes")
    read: ReadConfig = field(default_factory=ReadConfig)

    def __post_init__(self) -> None:
        if self.bucket_bytes < 1:
            raise UsageError(f"bucket_bytes = {self.bucket_bytes} must be at least 1")
        if self.workers < 1:
            raise UsageError(f"workers = {self.workers} must be at least 1")


def shuffle(
    inputs: Sequence[str | Path],
    output: Path,
    config: ShuffleConfig | None = None,
    reporter: Reporter = SILENT,
    rejects: Path | None = None,
) -> StepReport:
    """Write the documents in an order that the seed and their places alone decide.

    Needs room on the disk of `output` for one more copy of the documents; for two when they are many.

    Args:
        rejects: where bad lines go, `OUTPUT.rejects.jsonl` by default.
    """
    config = config or ShuffleConfig()
    return run(shuffle_job(inputs, output, config, rejects), config.workers, reporter)


def shuffle_job(
    inputs: Sequence[str | Path], output: Path, config: ShuffleConfig | None = None, rejects: Path | None = None
) -> Job[StepReport]:
    """The step as a job: scatter the documents into buckets by their keys, sort each bucket."""
    config = config or ShuffleConfig()
    source = RecordSource(inputs, config.read)
    buckets = min(max(-(-_text_bytes(source.paths) // config.bucket_bytes), 1), _MAX_BUCKETS)
    streams = [f"bucket{i:03d}" for i in range(buckets)]
    optional = rejects is None
    rejects = rejects or side_path(output, "rejects")
    outputs = (
        Output(rejects, phase="scatter", stream="rejects", optional=optional),
        Output(records_path(output), phase="sort", stream="out"),
    )

    def report(counts: Mapping[str, int], work: Work) -> StepReport:
        return step_report(StepReport, "shuffle", counts, work, outputs, config.read.max_errors)

    return Job(
        name="shuffle",
        output=output,
        key=[config.seed, config.bucket_bytes],
        phases=(
            Map(
                name="scatter",
                source=source,
                make=partial(_scatter, config, streams),
                streams={"rejects": rejects, **dict.fromkeys(streams)},
            ),
            Map(
                name="sort",
                source=partial(_Buckets, streams, config.bucket_bytes),
                make=_sort,
                streams={"out": output},
            ),
        ),
        outputs=outputs,
        report=report,
    )


def document_keys(seed: int, unit: int, part: int, count: int) -> NDArray[np.uint64]:
    """A random number for each document of a block: its place and the seed, mixed by SplitMix64's finisher.

    >>> document_keys(1, 0, 0, 2).tolist() == document_keys(1, 0, 0, 3)[:2].tolist()
    True
    """
    places = np.arange(count, dtype=np.uint64)
    for number in (part, unit, seed):
        places = _mix(places + np.uint64(0x9E3779B97F4A7C15)) + np.uint64(number & 0xFFFFFFFFFFFFFFFF)
    return _mix(places)


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def bucket_of(keys: NDArray[np.uint64], buckets: int) -> NDArray[np.int64]:
    """Which of some buckets keys fall into, by their size: all of one bucket are below all of the next."""
    return ((keys >> np.uint64(32)) * np.uint64(buckets) >> np.uint64(32)).astype(np.int64)


def _text_bytes(paths: Sequence[Path]) -> int:
    packed = (*COMPRESSIONS, *PARQUET)
    return sum(path.stat().st_size * (_EXPANSION if path.suffix.lower() in packed else 1) for path in paths)


def _scatter(config: ShuffleConfig, streams: Sequence[str], _: Work) -> Apply:
    def apply(block: Block, out: Part) -> None:
        lines = [line.rstrip(b"\r") for _, line, _ in block.records_and_lines(config.read, out)]
        out.counts["chars_out"] += out.counts["chars_in"]
        keys = document_keys(config.seed, block.unit, block.part, len(lines))
        for i, stored in _by_bucket(keys, lines, len(streams)):
            out.write_bytes(streams[i], stored)

    return apply


def _by_bucket(keys: NDArray[np.uint64], lines: Sequence[bytes], buckets: int) -> Iterator[tuple[int, bytes]]:
    """(bucket, its lines as they are stored)."""
    heads = [_HEAD.pack(key, len(line)) for key, line in zip(keys.tolist(), lines, strict=True)]
    places = bucket_of(keys, buckets)
    order = np.argsort(places, kind="stable")
    ends = np.searchsorted(places[order], np.arange(buckets + 1)).tolist()
    numbers = order.tolist()
    for bucket in range(buckets):
        mine = numbers[ends[bucket] : ends[bucket + 1]]
        if mine:
            yield bucket, b"".join([piece for i in mine for piece in (heads[i], lines[i])])


class _Buckets(Source):
    """A block a bucket: the names of its files. One that is too large is split into several, in order."""

    def __init__(self, streams: Sequence[str], bucket_bytes: int, work: Work) -> None:
        self._files = [[path for path in work.parts("scatter", name) if path.stat().st_size] for name in streams]
        self.paths = [path for files in self._files for path in files]
        self._bucket_bytes = bucket_bytes
        self._work = work

    def units(self) -> int:
        """One a bucket."""
        return len(self._files)

    def blocks(self, unit: int) -> Iterator[Block]:
        """The bucket, or its pieces."""
        files = self._files[unit]
        size = sum(path.stat().st_size for path in files)
        groups = [files] if files else []
        if size > _TOO_LARGE * self._bucket_bytes:
            groups = [[path] for path in self._split(unit, min(-(-size // self._bucket_bytes), _MAX_BUCKETS))]
        for part, group in enumerate(groups):
            names = "\n".join(map(str, group)).encode()
            yield Block(path=str(group[0]), unit=unit, part=part, held=names, size=size // len(groups))

    def _split(self, unit: int, count: int) -> list[Path]:
        paths = [self._work.path(f"{_SPLIT}{unit:03d}-{i:03d}") for i in range(count)]
        with ExitStack() as stack:
            pieces = [stack.enter_context(path.open("wb", buffering=_BUFFER_BYTES)) for path in paths]
            for path in self._files[unit]:
                with path.open("rb", buffering=_READ_BYTES) as file:
                    while head := file.read(_HEAD.size):
                        key, size = _HEAD.unpack(head)
                        inside = (key >> 32) * len(self._files) & 0xFFFFFFFF  # how far into the bucket
                        piece = pieces[inside * count >> 32]
                        piece.write(head)
                        piece.write(file.read(size))
        return paths

    def check(self, counts: Mapping[str, int]) -> None:
        """Buckets may be empty."""


def _sort(_: Work) -> Apply:
    def apply(block: Block, out: Part) -> None:
        paths = [Path(name) for name in block.data.decode().split("\n")]
        raw = b"".join(path.read_bytes() for path in paths)
        view = memoryview(raw)
        stored = []
        at = 0
        while at < len(raw):
            key, size = _HEAD.unpack_from(raw, at)
            at += _HEAD.size
            stored.append((key, at, at + size))
            at += size
        stored.sort()  # equal keys, should they ever come, keep their order
        out.write_bytes("out", b"".join([piece for _, a, b in stored for piece in (view[a:b], b"\n")]))
        out.counts["documents_out"] += len(stored)
        for path in paths:
            if path.name.startswith(_SPLIT):
                path.unlink()

    return apply
