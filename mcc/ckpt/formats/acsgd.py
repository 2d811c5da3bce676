"""AC-SGD's GPT-2: one file a layer, as its pipeline stages load them (Wang et al. 2022, arXiv 2206.01299).

    FOLDER/config.json           transformers' GPT2Config, which its runner reads; without it the tensors tell the sizes
    FOLDER/pytorch_embs.pt       wte.weight, wpe.weight
    FOLDER/pytorch_{i}.pt        layer i: ln_1, attn.c_attn, attn.c_proj, ln_2, mlp.c_fc, mlp.c_proj
    FOLDER/pytorch_lm_head.pt    ln_f, lm_head.weight (always there: its output layer is no longer the embedding)

Names and layouts are those of transformers' GPT-2, so that projections are `Conv1D`s [in, out].
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mcc.ckpt.ahead import ahead
from mcc.ckpt.dtypes import cast_dtype, dtype_named
from mcc.ckpt.format import Format, WriteOptions
from mcc.ckpt.source import Meta, Source, expected_shapes
from mcc.ckpt.tokenizer_files import TOKENIZER, write_hf_tokenizer
from mcc.ckpt.torch_read import FileTensor, by_name, open_torch
from mcc.ckpt.torch_write import Later, TorchWriter, torch_writer
from mcc.core.errors import MccError, UsageError
from mcc.core.events import Reporter
from mcc.models.base.config import ModelConfig
from mcc.models.base.family import TOKENS, families
from mcc.models.base.forms import FORMS, Form

if TYPE_CHECKING:
    from torch import Tensor

_EMBEDDINGS, _HEAD = "pytorch_embs.pt", "pytorch_lm_head.pt"
_OUTPUT = "lm_head.weight"
# Constants that transformers 4.19 keeps among the attention's tensors; AC-SGD loads strictly, so they must be there.
_MASKS = ("attn.bias", "attn.masked_bias")
# Every size of GPT-2 has heads of this width: what is assumed where no config.json tells their number.
_HEAD_CHANNELS = 64
_ROWS = 4096  # of the vocabulary compared at a time


class _Acsgd(Source):
    def __init__(self, folder: Path) -> None:
        self._files = {name: _tensors(folder / name) for name in _names(folder)}
        words = self._files[_EMBEDDINGS].get("wte.weight")
        if words is None or len(words.shape) != 2:
            raise MccError(f"{folder / _EMBEDDINGS} has no tensor wte.weight", "only AC-SGD's GPT-2 is read")
        config, told = self._config(folder)
        self._shapes = expected_shapes(config)
        self._where: dict[str, tuple[str, str, str]] = {}
        for name, row, layer in families.get("gpt2")().table(config):
            file, key = _place(row.hf_names(layer)[0], layer)
            self._where[name] = (file, key, row.hf_form)
            if key not in self._files[file]:
                raise MccError(f"{folder / file} has no tensor {key}")
            found, shape = self._files[file][key].shape, FORMS[row.hf_form].shape(self._shapes[name])
            if found != shape:
                raise MccError(f"{folder / file}: tensor {key} has shape {list(found)}, not {list(shape)}")
        tokenizer = folder / TOKENIZER
        self.meta = Meta(
            config=config,
            padded_vocab_size=config.vocab_size,
            tokenizer=tokenizer if tokenizer.is_file() else None,
            extra={"sizes_from": told},
            unread=self._unread(),
        )

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return self._shapes

    def dtypes(self) -> dict[str, torch.dtype]:
        return {name: self._files[file][key].dtype for name, (file, key, _) in self._where.items()}

    def read(self, name: str) -> Tensor:
        file, key, form = self._where[name]
        return FORMS[form].back(self._files[file][key].read(), self.meta.config)

    def file_of(self, name: str) -> Path | None:
        return self._files[self._where[name][0]][self._where[name][1]].file if name in self._where else None

    def _config(self, folder: Path) -> tuple[ModelConfig, str]:
        """The model, and where its sizes are known from."""
        embeddings, layers = self._files[_EMBEDDINGS], len(self._files) - 2
        file = folder / "config.json"
        values: dict[str, Any] = {}
        if file.is_file():
            try:
                values = dict(json.loads(file.read_text(encoding="utf-8")))
            except (OSError, ValueError, TypeError) as error:
                raise MccError(f"{file} cannot be read: {error}") from error
            told, stored = "config.json", values.get("n_layer", 12)
            if stored != layers:
                hint = "copy the missing files" if layers < stored else "is config.json another model's?"
                raise MccError(f"{folder} has files of {layers} layers, but config.json has n_layer = {stored}", hint)
        else:
            hidden = embeddings["wte.weight"].shape[1]
            if hidden % _HEAD_CHANNELS:
                raise MccError(
                    f"{folder}: the number of heads is unknown: {hidden} channels are no multiple of {_HEAD_CHANNELS}",
                    "put the model's config.json into the folder",
                )
            inner = self._files["pytorch_0.pt"].get("mlp.c_fc.bias")
            values = {"n_layer": layers, "n_embd": hidden, "n_head": hidden // _HEAD_CHANNELS}
            values["n_inner"] = None if inner is None or inner.shape == (4 * hidden,) else inner.shape[0]
            told = f"the tensors; heads of {_HEAD_CHANNELS} channels are assumed"
        if "wpe.weight" in embeddings:
            values["n_positions"] = embeddings["wpe.weight"].shape[0]
        values["vocab_size"] = embeddings["wte.weight"].shape[0]
        head = self._files[_HEAD].get(_OUTPUT)
        # A copy of the embedding is the tied layer that it was made from, unless training has made them differ.
        tied = values.get("tie_word_embeddings", True) and (head is None or _equal(head, embeddings["wte.weight"]))
        try:
            return families.get("gpt2")().from_hf_config({**values, "tie_word_embeddings": tied}), told
        except (KeyError, ValueError, TypeError) as error:
            raise MccError(f"{file} is incomplete or malformed: {error!r}") from error
        except MccError as error:
            raise MccError(f"{folder}: {error.what}", error.hint) from error

    def _unread(self) -> tuple[str, ...]:
        read = {(file, key) for file, key, _ in self._where.values()} | {(_HEAD, _OUTPUT)}
        held = ((file, key) for file, tensors in self._files.items() for key in tensors if key not in _MASKS)
        left = [f"{key} of {file}" for file, key in held if (file, key) not in read]
        return (f"what GPT-2 does not have: {', '.join(left[:3])}",) if left else ()


class Acsgd(Format):
    """AC-SGD's GPT-2: a file for the embeddings, for each layer and for the head."""

    looks_for = f"{_EMBEDDINGS}, pytorch_0.pt, ..., {_HEAD}"

    def detect(self, path: Path) -> bool:
        return (path / _EMBEDDINGS).is_file()

    def open(self, path: Path) -> Source:
        return _Acsgd(path)

    def size_bytes(self, source: Source, options: WriteOptions) -> int:
        config = source.meta.config
        again = families.get(config.family)().tied(config)  # the output layer is always there
        wanted = None if options.dtype is None else dtype_named(options.dtype)
        dtype = cast_dtype(source.dtypes()[TOKENS], wanted)
        return super().size_bytes(source, options) + again * math.prod(source.shapes()[TOKENS]) * dtype.itemsize

    def write_files(self, source: Source, folder: Path, options: WriteOptions, reporter: Reporter) -> tuple[int, int]:
        config = source.meta.config
        if config.family != "gpt2":
            raise UsageError(f"AC-SGD's files hold GPT-2, not {config.family}", "--to hf, --to mcc-safetensors")
        family = families.get(config.family)()
        values = family.to_hf_config(config)
        wanted = None if options.dtype is None else dtype_named(options.dtype)
        stored, shapes = source.dtypes(), source.shapes()
        files: dict[str, dict[str, Later]] = {}
        entries: list[tuple[str, str, Form, Later]] = []  # the file, our name, what becomes of it, its place there
        for name, row, layer in family.table(config):
            places = [_place(row.hf_names(layer)[0], layer)]
            if name == TOKENS and family.tied(config):
                places.append((_HEAD, _OUTPUT))
            for file, key in places:
                form = FORMS[row.hf_form if key != _OUTPUT else "same"]
                dtype = cast_dtype(stored[name], wanted)
                later = files.setdefault(file, {})[key] = Later(dtype, form.shape(shapes[name]))
                entries.append((file, name, form, later))
        order = {file: number for number, file in enumerate(files)}
        entries.sort(key=lambda entry: order[entry[0]])
        size = sum(later.size_bytes for _, _, _, later in entries)

        def read(entry: tuple[str, str, Form, Later]) -> Tensor:
            _, name, form, _ = entry
            return form.to(source.read_as(name, wanted), config).contiguous()

        with reporter.task("write", size, "B") as task, ExitStack() as stack:
            writers: dict[str, TorchWriter] = {}
            for (file, _, _, later), tensor in ahead(
                entries, read, lambda entry: entry[-1].size_bytes, options.workers
            ):
                if file not in writers:
                    stack.close()  # the one before is complete
                    masks = _masks(config) if "attn.c_attn.weight" in files[file] else {}
                    writers[file] = stack.enter_context(torch_writer(folder / file, files[file] | masks))
                writers[file].put(later, tensor)
                task.advance(later.size_bytes)
        values |= write_hf_tokenizer(source.meta.tokenizer, folder, config.positions)
        (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        return len(source.shapes()), size


def _place(hf: str, layer: int | None) -> tuple[str, str]:
    """The file, and the key in it, of a tensor of transformers' GPT-2.

    >>> _place("transformer.h.3.ln_1.weight", 3), _place("transformer.wpe.weight", None)
    (('pytorch_3.pt', 'ln_1.weight'), ('pytorch_embs.pt', 'wpe.weight'))
    """
    key = hf.removeprefix("transformer.")
    if layer is not None:
        return f"pytorch_{layer}.pt", key.removeprefix(f"h.{layer}.")
    return (_EMBEDDINGS if key.startswith(("wte.", "wpe.")) else _HEAD), key


def _names(folder: Path) -> Iterator[str]:
    """The embeddings' file, the layers' in order, the head's; a gap among the layers is a missing file."""
    numbers = {int(file.stem[8:]) for file in folder.glob("pytorch_*.pt") if file.stem[8:].isdecimal()}
    yield _EMBEDDINGS
    for layer in range(1 + max(numbers, default=0)):
        yield f"pytorch_{layer}.pt"
    yield _HEAD


def _tensors(file: Path) -> dict[str, FileTensor]:
    """The tensors by name in `file`, which holds nothing else of use."""
    loaded = by_name(open_torch(file), file)
    return {str(name): value for name, value in loaded.items() if isinstance(value, FileTensor)}


def _equal(a: FileTensor, b: FileTensor) -> bool:
    """Whether two tensors have the same numbers; looks at some rows at a time."""
    if (a.shape, a.dtype) != (b.shape, b.dtype):
        return False
    ranges = ((start, min(start + _ROWS, a.shape[0])) for start in range(0, a.shape[0], _ROWS))
    return all(torch.equal(a.read(rows), b.read(rows)) for rows in ranges)


def _masks(config: ModelConfig) -> dict[str, Tensor]:
    seen = torch.ones(config.positions, config.positions, dtype=torch.uint8).tril()
    return {_MASKS[0]: seen.view(1, 1, *seen.shape), _MASKS[1]: torch.tensor(-1e4)}
