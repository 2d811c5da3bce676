"""One model as safetensors under our own names, with mcc.json and the tokenizer: what users exchange."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mcc.ckpt.dtypes import cast_dtype, dtype_named
from mcc.ckpt.format import Format, WriteOptions
from mcc.ckpt.manifest import MANIFEST, read_format, read_manifest, write_manifest
from mcc.ckpt.source import Layout, Source, expected_shapes, trained_shapes
from mcc.ckpt.tensor_files import Entry, TensorFiles, write_tensors
from mcc.ckpt.tokenizer_files import TOKENIZER, copy_tokenizer
from mcc.core.errors import MccError
from mcc.core.events import Reporter

if TYPE_CHECKING:
    from torch import Tensor


class _Safetensors(Source):
    def __init__(self, folder: Path) -> None:
        self.meta = read_manifest(folder)
        self.files = TensorFiles(folder)
        self._shapes = expected_shapes(self.meta.config)
        for name, shape in self._shapes.items():
            if name not in self.files.stored:
                raise MccError(f"{folder} has no tensor {name}", f"{MANIFEST} describes another model?")
            found = self.files.stored[name]
            if found.shape != shape:
                raise MccError(f"{found.file}: tensor {name} has shape {list(found.shape)}, not {list(shape)}")
        stored = {name: found.shape for name, found in self.files.stored.items()}
        self._shapes |= trained_shapes(stored, self.meta.config, folder)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return self._shapes

    def dtypes(self) -> dict[str, torch.dtype]:
        return {name: self.files.stored[name].dtype for name in self._shapes}

    def read(self, name: str) -> Tensor:
        return self.files.read(name)

    def file_of(self, name: str) -> Path | None:
        return self.files.stored[name].file if name in self.files.stored else None


class MccSafetensors(Format):
    """One model as safetensors under our own names: what `mcc ckpt merge` writes."""

    looks_for = f"{MANIFEST} with format mcc-safetensors"
    holds_trained = True

    def detect(self, path: Path) -> bool:
        return read_format(path) == self.name

    def open(self, path: Path) -> Source:
        return _Safetensors(path)

    def write_files(self, source: Source, folder: Path, options: WriteOptions, reporter: Reporter) -> tuple[int, int]:
        entries = plain_entries(source, options)
        size = write_tensors(
            folder, entries, shard_bytes=options.shard_bytes, reporter=reporter, workers=options.workers
        )
        copied = copy_tokenizer(source.meta.tokenizer, folder)
        meta = dataclasses.replace(
            source.meta,
            layout=Layout(),
            padded_vocab_size=source.meta.config.vocab_size,
            tokenizer=folder / TOKENIZER if copied else None,
            extra={"consumed_samples": source.meta.extra.get("consumed_samples", 0)},
        )
        write_manifest(folder, self.name, meta)
        return len(entries), size


def plain_entries(source: Source, options: WriteOptions) -> list[Entry]:
    """Every tensor of `source` under its global name."""
    stored = source.dtypes()
    wanted = None if options.dtype is None else dtype_named(options.dtype)
    return [
        Entry(
            name,
            cast_dtype(stored[name], wanted),
            shape,
            lambda name=name: source.read_as(name, wanted),  # type: ignore[misc]
        )
        for name, shape in source.shapes().items()
    ]
