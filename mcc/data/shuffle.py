"""Documents in random order, however many: every document gets a random key, and the keys are sorted.

Keys are sorted in buckets by their first bits, so only one bucket is in memory; the order does not depend on how
many buckets there are.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import orjson

from mcc.core.config import option
from mcc.core.errors import UsageError
from mcc.core.events import SILENT, Reporter
from mcc.data.documents import ReadConfig
from mcc.data.step import Step, StepReport, work_folder
from mcc.data.streams import COMPRESSIONS

_KEY_BITS = 64
# Key and length of a stored record.
_HEAD = struct.Struct("<QQ")
# What text shrinks to when compressed, roughly; only the number of buckets depends on it.
_EXPANSION = 6
_MAX_BUCKETS = 256  # open files


@dataclass(frozen=True, kw_only=True)
class ShuffleConfig:
    """The order, and the memory it may take.

    Raises:
        UsageError: `bucket_bytes` is not positive.
    """

    seed: int = option(1234, "seed of the order")
    bucket_bytes: int = option(64 << 20, "text held in memory at once, about")
    read: ReadConfig = field(default_factory=ReadConfig)

    def __post_init__(self) -> None:
        if self.bucket_bytes < 1:
            raise UsageError(f"bucket_bytes = {self.bucket_bytes} must be at least 1")


def shuffle(
    inputs: Sequence[str | Path], output: Path, config: ShuffleConfig | None = None, reporter: Reporter = SILENT
) -> StepReport:
    """Write the documents in an order that the seed and their number alone decide.

    Needs room on the disk of `output` for one more copy of the documents.
    """
    config = config or ShuffleConfig()
    generator = random.Random(config.seed)
    step = Step("shuffle", inputs, output, read=config.read, reporter=reporter)
    bits = _bucket_bits(step.reader.paths, config.bucket_bytes)
    with step, ExitStack() as stack:
        folder = stack.enter_context(work_folder(output))
        buckets: list[IO[bytes]] = [
            stack.enter_context((folder / f"{i}").open("w+b", buffering=1 << 16)) for i in range(1 << bits)
        ]
        for record in step.records():
            place = generator.getrandbits(_KEY_BITS)
            line = orjson.dumps(record)
            bucket = buckets[place >> (_KEY_BITS - bits)]
            bucket.write(_HEAD.pack(place, len(line)))
            bucket.write(line)
        for bucket in buckets:
            bucket.seek(0)
            # Equal keys, should they ever come, keep their order.
            for _, line in sorted(_stored(bucket), key=lambda item: item[0]):
                step.write_line(line)
    step.chars_out = step.chars_in
    return step.report(StepReport)


def _bucket_bits(paths: Sequence[Path], bucket_bytes: int) -> int:
    """Bits that choose among enough buckets for files of these sizes."""
    total = sum(path.stat().st_size * (_EXPANSION if path.suffix in COMPRESSIONS else 1) for path in paths)
    wanted = min(-(-total // bucket_bytes), _MAX_BUCKETS)
    return max(wanted - 1, 0).bit_length()


def _stored(bucket: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    while head := bucket.read(_HEAD.size):
        place, length = _HEAD.unpack(head)
        yield place, bucket.read(length)
