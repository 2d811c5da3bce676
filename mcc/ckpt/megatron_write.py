"""Megatron-LM's per-rank files written: a tensor is read once, cut, and each rank's part goes into its file at once.

The ranks of one stage have the same keys, so their files are written side by side, each in a thread, while the next
tensor is read. No more than two tensors and a rank's parts of one are in memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mcc.ckpt import megatron_tree as tree
from mcc.ckpt.ahead import ahead
from mcc.ckpt.dtypes import cast, cast_dtype, dtype_named
from mcc.ckpt.format import WriteOptions
from mcc.ckpt.layout import even_chunks
from mcc.ckpt.megatron_args import make_args
from mcc.ckpt.megatron_optim import build_state
from mcc.ckpt.source import MASTER, Source
from mcc.ckpt.torch_write import Later, TorchWriter, torch_writer
from mcc.core.events import Reporter
from mcc.models.base.config import ModelConfig
from mcc.models.base.family import TOKENS, Param, families, global_shape
from mcc.models.base.forms import pad_rows, shard

WEIGHT = ""  # the slot of the weights themselves
_HALVES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """One tensor of every rank's file of a stage: the chunk and key there, our names, what is kept of it by slot."""

    chunk: int
    key: str
    names: tuple[str, ...]
    row: Param
    slots: dict[str, Later]


class Cut:
    """How `source` is cut for `options`: the shapes of each rank's parts, and the parts."""

    def __init__(self, source: Source, options: WriteOptions) -> None:
        self.source, self.options = source, options
        self.config: ModelConfig = source.meta.config
        self.family = families.get(self.config.family)()
        self.version = tree.version_named(options.megatron_version)
        self.padded = self.config.padded_vocab_size(options.tp)
        self.stages = even_chunks(self.config, options.pp, options.vpp)
        self.stored = source.dtypes()
        self.wanted = None if options.dtype is None else dtype_named(options.dtype)
        computed = source.meta.extra.get("params_dtype")
        if self.wanted is None and computed and source.slots():
            self.wanted = dtype_named(str(computed))  # the source keeps the exact copies as its weights
        self.moments = tuple(slot for slot in source.slots() if slot != MASTER)
        self.half = any(self.dtype(name) in _HALVES for name in self.stored)

    def dtype(self, name: str) -> torch.dtype:
        """Of the weight `name` as written."""
        return cast_dtype(self.stored[name], self.wanted)

    def entries(self, stage: int) -> Iterator[_Entry]:
        """Every tensor of the stage, in the order of the files."""
        for chunk, layers in enumerate(self.stages[stage]):
            first = (stage, chunk) == (0, 0)
            last = (stage, chunk) == (len(self.stages) - 1, len(self.stages[stage]) - 1)
            names: list[str] = []
            for name, row, layer in self.family.table(self.config):
                where, key = tree.place_of(row, layer, self.config.num_layers)
                if isinstance(where, int) and where in layers:
                    key = key.format(i=where - layers.start)
                elif not ((where == "first" and first) or (where == "last" and last)):
                    continue
                names.append(name)
                part, of = row.megatron_part
                if part == of - 1:  # the rows of one tensor there stand one after the other in the table
                    yield self._entry(chunk, key, tuple(names), row)
                    names = []
            if last and not first and self.family.tied(self.config):
                yield self._entry(chunk, tree.HEAD, (TOKENS,), self.family.row(TOKENS))

    def _entry(self, chunk: int, key: str, names: tuple[str, ...], row: Param) -> _Entry:
        shape = list(global_shape(row, self.config, self.padded))
        if row.tp_dim is not None:
            shape[row.tp_dim] //= self.options.tp
        shape[0] *= len(names)
        part, dtype = tuple(shape), self.dtype(names[0])
        slots = {WEIGHT: Later(dtype, part)}
        if self.moments:
            slots |= {slot: Later(torch.float32, part) for slot in self.moments}
            if dtype in _HALVES:
                slots[MASTER] = Later(torch.float32, part)
        return _Entry(chunk=chunk, key=key, names=names, row=row, slots=slots)

    def read(self, slot: str, name: str) -> Tensor:
        """What is kept of a parameter: whole, in our layout."""
        if slot == WEIGHT:
            return self.source.read_as(name, self.dtype(name))
        return self.source.read_as(name, torch.float32) if slot == MASTER else self.source.read_slot(slot, name)

    def wholes(self, key: tuple[_Entry, str]) -> list[Tensor]:
        """What a tensor of the files is cut from."""
        entry, slot = key
        return [self.read(slot, name).contiguous() for name in entry.names]  # turned here, not by the writers

    def size(self, key: tuple[_Entry, str]) -> int:
        """Bytes of what `wholes` gives."""
        entry, slot = key
        return self.options.tp * entry.slots[slot].size_bytes

    def part(self, wholes: Sequence[Tensor], entry: _Entry, slot: str, rank: int) -> Tensor:
        """One rank's part of one tensor, or of several that are one there."""
        row, tp = entry.row, self.options.tp
        parts = []
        for whole, name in zip(wholes, entry.names, strict=True):
            if row.shape[0] == "V":
                rows = self.padded // tp
                part = pad_rows(whole[rank * rows : (rank + 1) * rows], rows)
            else:
                part = shard(whole, row.tp_dim, rank, tp)
            if row.shape[0] == "QKV":
                part = tree.qkv_to(part, self.version, self.config.head_dim)
            parts.append(cast(part, entry.slots[slot].dtype, name))
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def write_ranks(source: Source, root: Path, options: WriteOptions, reporter: Reporter) -> int:
    """Write every rank's file below `root`; returns the bytes of their tensors."""
    cut = Cut(source, options)
    stages = [list(cut.entries(stage)) for stage in range(options.pp)]
    total = _size(cut, stages)
    threads = min(options.tp, os.cpu_count() or 1)
    with reporter.task("write", total, "B") as task, ThreadPoolExecutor(threads) as pool:
        for stage, entries in enumerate(stages):
            values = _values(cut, entries)
            with ExitStack() as stack:
                writers = []
                for rank in range(options.tp):
                    file = root / tree.rank_folder(rank, stage, options.pp) / tree.FILES[0]
                    file.parent.mkdir(parents=True)
                    writers.append(stack.enter_context(torch_writer(file, values)))
                keys = [(entry, slot) for entry in entries for slot in entry.slots]
                for (entry, slot), wholes in ahead(keys, cut.wholes, cut.size, options.workers):
                    parts = [pool.submit(_put, cut, wholes, entry, slot, *place) for place in enumerate(writers)]
                    wait(parts)  # no file is closed while it is written
                    task.advance(sum(part.result() for part in parts))
    return total


def size_of(source: Source, options: WriteOptions) -> int:
    """The bytes of the tensors that `write_ranks` writes: what every rank has alike, padding and masters too."""
    cut = Cut(source, options)
    return _size(cut, [list(cut.entries(stage)) for stage in range(options.pp)])


def _size(cut: Cut, stages: Sequence[Sequence[_Entry]]) -> int:
    laters = (later for entries in stages for entry in entries for later in entry.slots.values())
    return cut.options.tp * sum(later.size_bytes for later in laters)


def _put(cut: Cut, wholes: Sequence[Tensor], entry: _Entry, slot: str, rank: int, writer: TorchWriter) -> int:
    """Write one rank's part; its bytes."""
    later = entry.slots[slot]
    writer.put(later, cut.part(wholes, entry, slot, rank))
    return later.size_bytes


def _values(cut: Cut, entries: Sequence[_Entry]) -> dict[str, Any]:
    """What the files of one stage hold, tensors still to come."""
    meta, vpp = cut.source.meta, cut.options.vpp
    flats: list[dict[str, Later]] = [{} for _ in range(vpp)]
    for entry in entries:
        flats[entry.chunk][entry.key] = entry.slots[WEIGHT]
    dtype = max((cut.dtype(name) for name in cut.stored), key=lambda stored: stored.itemsize)
    values: dict[str, Any] = {
        "args": make_args(meta, cut.padded, cut.options, dtype),
        "checkpoint_version": cut.version,
        "iteration": meta.iteration,
        **dict(zip(tree.model_keys(vpp), map(tree.nest, flats), strict=True)),
    }
    if cut.moments:
        known, samples = meta.extra.get("optimizer"), meta.extra.get("consumed_samples")
        values |= build_state(
            [(e.chunk, e.key, {slot: at for slot, at in e.slots.items() if slot != WEIGHT}) for e in entries],
            cut.half,
            {"updates": meta.iteration, **(known if isinstance(known, dict) else {})},
            samples if isinstance(samples, int) else 0,
        )
    return values
