"""What a checkpoint format is: it recognises a path, opens it as a `Source`, and writes a `Source` as a folder."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from mcc.ckpt.dtypes import cast_dtype, dtype_named
from mcc.ckpt.manifest import MANIFEST, read_format
from mcc.ckpt.source import Source
from mcc.ckpt.tokenizer_files import check_vocabulary
from mcc.core.config import option
from mcc.core.errors import MccError, UsageError
from mcc.core.events import SILENT, Reporter
from mcc.core.files import atomic_path
from mcc.core.plugins import Kind
from mcc.models.base.bottleneck import trained_places
from mcc.models.base.family import families

OPTIMIZER_STATE = "optimizer state"  # among what a format does not hold


@dataclass(frozen=True, kw_only=True)
class WriteOptions:
    """How a checkpoint is to be written. A format refuses what it cannot do.

    Raises:
        UsageError: a size is not positive, or a dtype is unknown.
    """

    tp: int = option(1, "tensor-parallel size")
    pp: int = option(1, "pipeline-parallel size")
    vpp: int = option(1, "virtual stages: chunks of layers that a pipeline stage holds, interleaved")
    dtype: str | None = option(None, "dtype of the written tensors [as stored]")
    megatron_version: float = option(3.0, "Megatron-LM's checkpoint_version: 0, 1, 2 or 3")
    shard_bytes: int = option(5_000_000_000, "bytes of one safetensors file at most")
    workers: int = option(1, "threads that read and convert the next tensors while one is written; 0: none")
    hf_bin: bool = option(False, "hf: pytorch_model.bin instead of safetensors")

    def __post_init__(self) -> None:
        if min(self.tp, self.pp, self.vpp, self.shard_bytes) < 1:
            sizes = f"tp = {self.tp}, pp = {self.pp}, vpp = {self.vpp}, shard_bytes = {self.shard_bytes}"
            raise UsageError(f"{sizes}: each at least 1")
        if self.workers < 0:
            raise UsageError(f"workers = {self.workers} is negative")
        if self.dtype is not None:
            dtype_named(self.dtype)


@dataclass(frozen=True, kw_only=True)
class WriteReport:
    """What was written: `tensors` of the model, `size_bytes` of tensor data, and what the format could not hold."""

    path: Path
    format: str
    tensors: int
    size_bytes: int
    dropped: tuple[str, ...] = field(default=())


class Format(ABC):
    """A checkpoint format. One file of `mcc/ckpt/formats` each; the file's name is the format's.

    Attributes:
        looks_for: the files that `detect` goes by, for the message when nothing matches.
        layouts: whether it can be cut in TP x PP; others refuse `tp`, `pp` or `vpp` above 1.
        holds_trained: whether it has a place for codecs that were trained with the model.
        read_only: why nothing is written in this format; empty: it is written.
    """

    looks_for: ClassVar[str]
    layouts: ClassVar[bool] = False
    holds_trained: ClassVar[bool] = False
    read_only: ClassVar[str] = ""

    @property
    def name(self) -> str:
        """The public name: the file's."""
        return type(self).__module__.rpartition(".")[2].replace("_", "-")

    @abstractmethod
    def detect(self, path: Path) -> bool:
        """Whether the folder `path` is in this format. Reads no tensors."""

    @abstractmethod
    def open(self, path: Path) -> Source:
        """The checkpoint at `path`.

        Raises:
            MccError: a file is missing, truncated or malformed.
        """

    def open_as(self, path: Path, family: str | None = None) -> Source:
        """The checkpoint at `path` as a model of the family called `family`, whatever the files say; None: as they say.

        Raises:
            MccError: besides `open`'s: this format's files leave no doubt about the family, and it is another.
            UsageError: no family is called `family`.
        """
        source = self.open(path)
        if family is not None and source.meta.config.family != families.get(family)().name:
            raise MccError(f"{path} is of the family {source.meta.config.family}, not {family}", "leave out --family")
        return source

    @abstractmethod
    def write_files(self, source: Source, folder: Path, options: WriteOptions, reporter: Reporter) -> tuple[int, int]:
        """Write `source` into the existing empty `folder`, a tensor at a time; returns tensors and their bytes."""

    def size_bytes(self, source: Source, options: WriteOptions) -> int:
        """Bytes of the tensors that `write_files` will write: here every tensor of the model once, and nothing else."""
        wanted, stored = None if options.dtype is None else dtype_named(options.dtype), source.dtypes()
        return sum(
            math.prod(shape) * cast_dtype(stored[name], wanted).itemsize for name, shape in source.shapes().items()
        )

    def check_writes(self) -> None:
        """Refuse a format that is only read.

        Raises:
            UsageError: with the reason.
        """
        if self.read_only:
            raise UsageError(f"format {self.name} is read, not written: {self.read_only}", f"--to {writable()}")

    def drops(self, source: Source) -> tuple[str, ...]:
        """What `source` has and this format cannot hold."""
        codecs = () if self.holds_trained else trained_places(source.shapes())
        trained = (f"the codecs that were trained with the model ({', '.join(codecs)})",) if codecs else ()
        return (*source.meta.unread, *trained, *((OPTIMIZER_STATE,) if source.slots() else ()))

    def write(
        self, source: Source, path: str | Path, options: WriteOptions | None = None, reporter: Reporter = SILENT
    ) -> WriteReport:
        """Write `source` to the folder `path`, which appears only when it is complete.

        Raises:
            MccError: the tokenizer does not fit the model, or the source cannot be read.
            UsageError: the format cannot do what `options` ask.
        """
        self.check_writes()
        options = options or WriteOptions()
        if not self.layouts and max(options.tp, options.pp, options.vpp) > 1:
            sizes = f"tp = {options.tp}, pp = {options.pp}, vpp = {options.vpp}"
            cut = ", ".join(name for name, plugin in formats.all() if plugin.layouts and not plugin.read_only)
            raise UsageError(f"format {self.name} is one whole model: {sizes} do not fit", f"--to {cut}")
        check_vocabulary(source.meta.tokenizer, source.meta.config.vocab_size)
        dropped = self.drops(source)
        for what in dropped:
            reporter.note(f"format {self.name} does not hold {what}: left out")
        with atomic_path(path) as folder:
            folder.mkdir()
            tensors, size_bytes = self.write_files(source, folder, options, reporter)
        return WriteReport(path=Path(path), format=self.name, tensors=tensors, size_bytes=size_bytes, dropped=dropped)


class ReadOnly(Format):
    """A format that other systems write, and mcc reads: `read_only` says why it is not written."""

    def write_files(self, source: Source, folder: Path, options: WriteOptions, reporter: Reporter) -> tuple[int, int]:
        raise AssertionError("`write` refuses")


formats: Kind[Format] = Kind("checkpoint format", "mcc.ckpt.formats", Format)


def writable() -> str:
    """The names of the formats that are written, for messages."""
    return ", ".join(name for name, plugin in formats.all() if not plugin.read_only)


def detect(path: str | Path, format: str | None = None) -> Format:
    """The format of the checkpoint at `path`: the one called `format`, or the first that recognises it.

    Raises:
        MccError: there is nothing at `path`, or no format knows it; the message lists what was looked for.
        UsageError: no format is called `format`.
    """
    wanted = None if format is None else formats.get(format)()
    folder = Path(path)
    if not folder.exists():
        raise MccError(f"no such checkpoint: {folder}", "check the path")
    if not folder.is_dir():
        raise MccError(f"checkpoint {folder} is a file", "give the folder that holds it")
    if wanted is not None:
        if not wanted.detect(folder):
            raise MccError(f"{folder} is not in the format {wanted.name}", f"looked for {wanted.looks_for}")
        return wanted
    known = {name: plugin() for name, plugin in formats.all()}
    for plugin in known.values():
        if plugin.detect(folder):
            return plugin
    if not any(folder.iterdir()):
        raise MccError(f"{folder} is empty", "check the path")
    if (folder / MANIFEST).is_file() and read_format(folder) is None:
        raise MccError(f"{folder / MANIFEST} names no format: it is damaged, or may not be read", "copy it again")
    looked = "; ".join(f"{name}: {plugin.looks_for}" for name, plugin in known.items())
    raise MccError(f"{folder} is not a checkpoint that mcc knows", f"looked for {looked}")


def open_checkpoint(path: str | Path, format: str | None = None, family: str | None = None) -> Source:
    """The checkpoint at `path`: a folder in any format, or a training run's, whose latest checkpoint is taken.

    Args:
        path: the folder.
        format: a name of `formats`; detected when None.
        family: a name of `mcc.models.base.family.families`; detected when None.

    Raises:
        MccError: it is no checkpoint, or a file of it is missing, truncated or malformed.
        UsageError: no format is called `format`, or no family `family`.
    """
    return detect(path, format).open_as(Path(path), family)
