"""What a checkpoint is, from its descriptions alone: no tensor data is read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from mcc.ckpt.dtypes import dtype_name
from mcc.ckpt.format import detect
from mcc.ckpt.source import Layout
from mcc.models.base.config import ModelConfig
from mcc.models.base.family import families


@dataclass(frozen=True, kw_only=True)
class TensorSummary:
    """One tensor: global name, whole shape without padding, stored dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What `mcc ckpt inspect` shows.

    Args:
        parameters: numbers in the model, without the vocabulary's padding; tied weights count once.
        size_bytes: bytes of these parameters as stored.
        dtypes: stored dtype -> tensors.
        optimizer: names of the optimizer state that can be read.
        unread: what the files hold and cannot be read.
        extra: what the format tells besides.
    """

    path: Path
    format: str
    config: ModelConfig
    layout: Layout
    iteration: int
    parameters: int
    size_bytes: int
    dtypes: dict[str, int]
    tied: bool
    padded_vocab_size: int
    tokenizer: Path | None
    optimizer: tuple[str, ...]
    unread: tuple[str, ...]
    extra: dict[str, object]
    tensors: tuple[TensorSummary, ...]


def inspect(path: str | Path, format: str | None = None, family: str | None = None) -> Summary:
    """Describe the checkpoint at `path`.

    Raises:
        MccError: it is no checkpoint, or a file of it is missing, truncated or malformed.
    """
    plugin = detect(path, format)
    source = plugin.open_as(Path(path), family)
    shapes, stored = source.shapes(), source.dtypes()
    counts: dict[str, int] = {}
    for dtype in stored.values():
        counts[dtype_name(dtype)] = counts.get(dtype_name(dtype), 0) + 1
    meta = source.meta
    return Summary(
        path=Path(path),
        format=plugin.name,
        config=meta.config,
        layout=meta.layout,
        iteration=meta.iteration,
        parameters=sum(math.prod(shape) for shape in shapes.values()),
        size_bytes=sum(math.prod(shape) * stored[name].itemsize for name, shape in shapes.items()),
        dtypes=counts,
        tied=families.get(meta.config.family)().tied(meta.config),
        padded_vocab_size=meta.padded_vocab_size,
        tokenizer=meta.tokenizer,
        optimizer=source.slots(),
        unread=meta.unread,
        extra=meta.extra,
        tensors=tuple(
            TensorSummary(name=name, shape=shape, dtype=dtype_name(stored[name])) for name, shape in shapes.items()
        ),
    )
