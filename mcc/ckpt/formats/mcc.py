"""Training's own checkpoints: torch.distributed.checkpoint under global names, with mcc.json.

    RUN/latest                        the name of the newest checkpoint: iter_0000100
    RUN/iter_0000100/{.metadata, *.distcp, mcc.json, tokenizer.json, checksums.json}

Keys: `model.<global name>` (the embedding with its padding rows), `optim.<slot>.<global name>`. Other keys belong to
one layout (random states, codec states) and only training reads them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from mcc.ckpt.checksums import add_sums
from mcc.ckpt.dcp import METADATA, DcpFolder
from mcc.ckpt.dcp_write import write_dcp
from mcc.ckpt.dtypes import cast, cast_dtype, dtype_name, dtype_named
from mcc.ckpt.format import Format, WriteOptions
from mcc.ckpt.history import LATEST, folder_name
from mcc.ckpt.layout import check_layout, padded_shapes
from mcc.ckpt.manifest import MANIFEST, read_format, read_manifest, write_manifest
from mcc.ckpt.source import MASTER, Layout, Source, expected_shapes, trained_shapes
from mcc.ckpt.tokenizer_files import TOKENIZER, copy_tokenizer
from mcc.core.errors import MccError
from mcc.core.events import Reporter
from mcc.core.files import write_text
from mcc.models.base.forms import pad_rows

if TYPE_CHECKING:
    from torch import Tensor

MODEL, OPTIMIZER = "model.", "optim."


class _Native(Source):
    def __init__(self, folder: Path) -> None:
        self.meta = read_manifest(folder)
        self.folder = DcpFolder(folder)
        self._shapes = expected_shapes(self.meta.config)
        for name, shape in padded_shapes(self.meta.config, self.meta.padded_vocab_size).items():
            if MODEL + name not in self.folder.stored:
                raise MccError(f"{folder} has no tensor {MODEL}{name}", f"{MANIFEST} describes another model?")
            _, found = self.folder.stored[MODEL + name]
            if found != shape:
                raise MccError(f"{folder}: tensor {MODEL}{name} has shape {list(found)}, not {list(shape)}")
        first = next(iter(self._shapes))
        whole = {key.removeprefix(MODEL): shape for key, (_, shape) in self.folder.stored.items()}
        self._shapes |= trained_shapes(whole, self.meta.config, folder)
        keys = (key for key in self.folder.stored if key.startswith(OPTIMIZER) and key.endswith(f".{first}"))
        self._slots = tuple(sorted(key.removeprefix(OPTIMIZER).removesuffix(f".{first}") for key in keys))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return self._shapes

    def dtypes(self) -> dict[str, torch.dtype]:
        return {name: self.folder.stored[MODEL + name][0] for name in self._shapes}

    def read(self, name: str) -> Tensor:
        return pad_rows(self.folder.read(MODEL + name), self._shapes[name][0])

    def file_of(self, name: str) -> Path | None:
        return self.folder.file_of(MODEL + name)

    def read_part(self, name: str, dim: int, start: int, length: int) -> Tensor:
        return self.folder.read_part(MODEL + name, dim, start, length)

    def slots(self) -> tuple[str, ...]:
        return self._slots

    def read_slot(self, slot: str, name: str) -> Tensor:
        return pad_rows(self.folder.read(f"{OPTIMIZER}{slot}.{name}"), self._shapes[name][0])


class _Entry(NamedTuple):
    """A tensor to write: its global name, the optimizer's slot (None: the weight itself), dtype and padded shape."""

    name: str
    slot: str | None
    dtype: torch.dtype
    shape: tuple[int, ...]


def _size(entries: Mapping[str, _Entry]) -> int:
    return sum(math.prod(entry.shape) * entry.dtype.itemsize for entry in entries.values())


class Native(Format):
    """What `mcc train` saves: torch.distributed.checkpoint under global names."""

    looks_for = f"{MANIFEST} with format mcc beside {METADATA}, or a file '{LATEST}' naming such a folder"
    layouts = True
    holds_trained = True

    def detect(self, path: Path) -> bool:
        return read_format(path) == self.name or (path / LATEST).is_file()

    def open(self, path: Path) -> Source:
        return _Native(newest(path))

    def drops(self, source: Source) -> tuple[str, ...]:
        return source.meta.unread

    def weights_of(self, source: Source, wanted: torch.dtype | None) -> dict[str, torch.dtype]:
        """The dtype of each weight as written. Where the optimizer keeps exact copies, these are the weights here."""
        exact = torch.float32 if MASTER in source.slots() else None
        stored = source.dtypes()
        return {name: cast_dtype(of, wanted or exact) for name, of in stored.items()}

    def entries(self, source: Source, options: WriteOptions) -> dict[str, _Entry]:
        """What is written, by key."""
        config = source.meta.config
        padded = padded_shapes(config, config.padded_vocab_size(options.tp))
        padded |= trained_shapes(source.shapes(), config, Path(self.name))
        weights = self.weights_of(source, None if options.dtype is None else dtype_named(options.dtype))
        entries = {MODEL + name: _Entry(name, None, weights[name], shape) for name, shape in padded.items()}
        for slot in source.slots():
            if slot != MASTER:  # moments keep their precision whatever the weights' dtype
                for name, shape in padded.items():
                    entries[f"{OPTIMIZER}{slot}.{name}"] = _Entry(name, slot, torch.float32, shape)
        return entries

    def size_bytes(self, source: Source, options: WriteOptions) -> int:
        return _size(self.entries(source, options))

    def write_files(self, source: Source, folder: Path, options: WriteOptions, reporter: Reporter) -> tuple[int, int]:
        config = source.meta.config
        check_layout(config, options.tp, options.pp, options.vpp)
        entries = self.entries(source, options)

        def read(key: str) -> Tensor:
            name, slot, dtype, shape = entries[key]
            whole = source.read_as(name, dtype) if slot is None else source.read_slot(slot, name)
            return pad_rows(cast(whole, dtype, name), shape[0])

        checkpoint = folder / folder_name(source.meta.iteration)
        size = _size(entries)
        stored = {key: (entry.dtype, entry.shape) for key, entry in entries.items()}
        with reporter.task("write", size, "B") as task:
            sums = write_dcp(checkpoint, stored, read, options.workers, task.advance)
        copied = copy_tokenizer(source.meta.tokenizer, checkpoint)
        extra = {
            "consumed_samples": source.meta.extra.get("consumed_samples", 0),
            "has_optimizer": bool(source.slots()),
        }
        if source.slots() and "optimizer" in source.meta.extra:
            extra["optimizer"] = source.meta.extra["optimizer"]  # its name, the updates behind its moments, loss scale
        if MASTER in source.slots():
            extra["params_dtype"] = dtype_name(next(iter(source.dtypes().values())))  # what they were computed with
        meta = dataclasses.replace(
            source.meta,
            layout=Layout(tp=options.tp, pp=options.pp, vpp=options.vpp),
            padded_vocab_size=config.padded_vocab_size(options.tp),
            tokenizer=checkpoint / TOKENIZER if copied else None,
            extra=extra,
        )
        write_manifest(checkpoint, self.name, meta)
        add_sums(checkpoint, sums)
        write_text(folder / LATEST, checkpoint.name + "\n")
        return sum(entry.slot is None for entry in entries.values()), size


def newest(path: Path) -> Path:
    """The checkpoint folder that `path` is, or that its file `latest` names.

    Raises:
        MccError: `latest` names a folder that is not there.
    """
    if not (path / LATEST).is_file():
        return path
    name = (path / LATEST).read_text(encoding="utf-8").strip()
    folder = path / name
    if not name or Path(name).name != name or not (folder / MANIFEST).is_file():
        raise MccError(
            f"{path / LATEST} names the checkpoint {name!r}, which is not there", "give a checkpoint's folder itself"
        )
    return folder
