"""Hugging Face folders: config.json, safetensors or .bin weights (single or sharded), tokenizer files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import torch

from mcc.ckpt.dtypes import cast_dtype, dtype_name, dtype_named
from mcc.ckpt.format import Format, WriteOptions
from mcc.ckpt.hf_names import family_of, read_config, spellings
from mcc.ckpt.manifest import MANIFEST
from mcc.ckpt.source import Meta, Source, expected_shapes
from mcc.ckpt.tensor_files import Entry, PickledFiles, TensorFiles, write_tensors
from mcc.ckpt.tokenizer_files import find_tokenizer, write_hf_tokenizer
from mcc.core.errors import MccError
from mcc.core.events import Reporter
from mcc.models.base.config import ModelConfig
from mcc.models.base.family import Family, families
from mcc.models.base.forms import FORMS, Form, join, split, split_shapes

if TYPE_CHECKING:
    from torch import Tensor

_CONFIG, _GENERATION = "config.json", "generation_config.json"
_SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
# Tensors that hold nothing of their own: causal masks, positions, wavelengths, BERT's output layer (the embedding).
_CONSTANTS = (
    *(".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias"),
    *("position_ids", "rotary_emb.inv_freq", "cls.predictions.decoder.weight", "cls.predictions.decoder.bias"),
    *("lm_head.decoder.weight", "lm_head.decoder.bias"),
)


class _HuggingFace(Source):
    def __init__(self, folder: Path, family_name: str | None = None) -> None:
        file = folder / _CONFIG
        values = read_config(file)
        family = family_of(values, file) if family_name is None else families.get(family_name)()
        try:
            config = family.from_hf_config(values)
        except (KeyError, ValueError, TypeError) as error:
            raise MccError(f"{file} is incomplete or malformed: {error!r}") from error
        except MccError as error:
            raise MccError(f"{file}: {error.what.removeprefix('config.json: ')}", error.hint) from error
        if values.get("quantization_config"):
            raise MccError(
                f"{file}: quantized weights (quantization_config) are not read", "take the unquantized model"
            )
        safe = any((folder / name).exists() for name in _SAFETENSORS)
        self.files: TensorFiles | PickledFiles = TensorFiles(folder) if safe else PickledFiles(folder)
        config = self._fullest(family, config)
        self._shapes = expected_shapes(config)
        self._where: dict[str, tuple[list[str], Form]] = {}
        for name, row, layer in family.table(config):
            form, names = FORMS[row.hf_form], row.hf_names(layer)
            shapes = split_shapes(self._shapes[name], form, config, len(names))
            found = [self._find(theirs, shape, folder) for theirs, shape in zip(names, shapes, strict=True)]
            self._where[name] = (found, form)
        self.meta = Meta(
            config=config,
            padded_vocab_size=config.vocab_size,
            tokenizer=find_tokenizer(folder),
            extra={
                "model_type": family.hf_model_type,
                "files": "safetensors" if safe else "pytorch_model.bin",
                _CONFIG: values,
                _GENERATION: read_config(folder / _GENERATION) if (folder / _GENERATION).is_file() else None,
            },
            unread=self._unread(family),
        )

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return self._shapes

    def dtypes(self) -> dict[str, torch.dtype]:
        return {name: self.files.stored[theirs[0]].dtype for name, (theirs, _) in self._where.items()}

    def read(self, name: str) -> Tensor:
        theirs, form = self._where[name]
        return join([self.files.read(key) for key in theirs], form, self.meta.config)

    def file_of(self, name: str) -> Path | None:
        return self.files.stored[self._where[name][0][0]].file if name in self._where else None

    def _fullest(self, family: Family, config: ModelConfig) -> ModelConfig:
        """A masked-LM head with a pooler and a pair's head beside it is a pretraining head, whatever config.json says:
        the first BERTs' files are, and what is fine-tuned starts from their pooler."""
        if config.head != "lm" or "pretraining" not in family.blueprint.heads:
            return config
        full = dataclasses.replace(config, head="pretraining")
        names = (key for _, row, layer in family.table(full) if row.heads for key in row.hf_names(layer))
        return full if all(any(key in self.files.stored for key in spellings(name)) for name in names) else config

    def _unread(self, family: Family) -> tuple[str, ...]:
        """Tensors that nothing here has a place for, in words; copies and constants are not missed."""
        read = {key for found, _ in self._where.values() for key in found}
        tied = [name for row in family.params if row.untied for name in row.hf_names(None)]
        known = (*(() if "output.weight" in self._where else tied), *_CONSTANTS)
        left = sorted(key for key in self.files.stored if key not in read and not key.endswith(known))
        more = f" and {len(left) - 3} more" if len(left) > 3 else ""
        return (f"what no model here has: {', '.join(left[:3])}{more}",) if left else ()

    def _find(self, theirs: str, shape: tuple[int, ...], folder: Path) -> str:
        """The name that the files have for the tensor `theirs`."""
        found = next((key for key in spellings(theirs) if key in self.files.stored), None)
        if found is None:
            raise MccError(f"{folder} has no tensor {theirs}", "config.json describes another model?")
        stored = self.files.stored[found]
        if stored.shape != shape:
            raise MccError(f"{stored.file}: tensor {found} has shape {list(stored.shape)}, not {list(shape)}")
        return found


class HuggingFace(Format):
    """Hugging Face folders, as transformers reads and writes them."""

    looks_for = f"config.json beside {_SAFETENSORS[0]} or {_PICKLED[0]} (or their index)"

    def detect(self, path: Path) -> bool:
        weights = any((path / name).is_file() for name in (*_SAFETENSORS, *_PICKLED))
        return weights and (path / _CONFIG).is_file() and not (path / MANIFEST).exists()

    def open(self, path: Path) -> Source:
        return _HuggingFace(path)

    def open_as(self, path: Path, family: str | None = None) -> Source:
        return _HuggingFace(path, family)

    def write_files(self, source: Source, folder: Path, options: WriteOptions, reporter: Reporter) -> tuple[int, int]:
        config = source.meta.config
        family = families.get(config.family)()
        entries = _entries(source, family, options)
        stem, suffix = ("pytorch_model", ".bin") if options.hf_bin else ("model", ".safetensors")
        size = write_tensors(folder, entries, stem, options.shard_bytes, reporter, options.workers, suffix)
        # Left out, transformers would take the ids of the original vocabulary.
        named = write_hf_tokenizer(source.meta.tokenizer, folder, config.positions)
        values, carried = {**named, **family.to_hf_config(config)}, source.meta.extra.get(_CONFIG)
        if isinstance(carried, dict) and _same(family, values, carried):
            values = dict(carried)  # with what no model here has a place for: token ids, labels, defaults
            if source.meta.extra.get(_GENERATION):
                _write_json(folder / _GENERATION, source.meta.extra[_GENERATION])
        spelt = "torch_dtype" if "torch_dtype" in values else "dtype"  # before and since transformers 4.56
        values[spelt] = dtype_name(max((entry.dtype for entry in entries), key=lambda dtype: dtype.itemsize))
        _write_json(folder / _CONFIG, values)
        return len(entries), size


def _same(family: Family, ours: dict[str, Any], carried: dict[str, Any]) -> bool:
    """Whether a source's config.json describes the model that is written."""
    if carried.get("model_type") != family.hf_model_type:
        return False
    return family.from_hf_config(ours) == family.from_hf_config(carried)


def _write_json(file: Path, values: object) -> None:
    file.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _entries(source: Source, family: Family, options: WriteOptions) -> list[Entry]:
    config, shapes, stored = source.meta.config, source.shapes(), source.dtypes()
    wanted = None if options.dtype is None else dtype_named(options.dtype)
    entries = []
    for name, row, layer in family.table(config):
        form, names = FORMS[row.hf_form], row.hf_names(layer)
        dtype = cast_dtype(stored[name], wanted)

        def read(name: str = name, form: Form = form, count: int = len(names)) -> list[Tensor]:
            return split(source.read_as(name, wanted), form, config, count)

        parts = _Parts(read, len(names))
        for part, shape in enumerate(split_shapes(shapes[name], form, config, len(names))):
            # A body alone has no prefix before its names (BertModel): so transformers saves it.
            theirs = names[part].partition(".")[2] if config.head == "pooler" else names[part]
            entries.append(Entry(theirs, dtype, shape, partial(parts.take, part)))
    return entries


class _Parts:
    """What several of their tensors come from: read once, by whichever thread is first, and let go with the last."""

    def __init__(self, read: Callable[[], list[Tensor]], count: int) -> None:
        self._read, self._left, self._lock = read, count, Lock()
        self._held: list[Tensor] = []

    def take(self, part: int) -> Tensor:
        with self._lock:
            if not self._held:
                self._held = self._read()
            taken = self._held[part]
            self._left -= 1
            if not self._left:
                self._held = []
            return taken
