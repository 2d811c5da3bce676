"""A checkpoint in any format as a model ready to run on one process.

B batch   T tokens   V vocabulary
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mcc.ckpt.dtypes import cast
from mcc.ckpt.format import detect
from mcc.ckpt.source import MASTER, Meta, Source
from mcc.ckpt.tokenizer_files import check_vocabulary, is_vocabulary
from mcc.core.errors import MccError
from mcc.models.base.axes import Axes
from mcc.models.base.blueprint import LANGUAGE
from mcc.models.base.bottleneck import insert, is_trained, sent_channels
from mcc.models.base.config import ModelConfig
from mcc.models.base.family import families
from mcc.models.base.forms import pad_rows
from mcc.models.base.transformer import Stage


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A whole model in memory.

    Args:
        config: its shape.
        model: the whole model as one stage, in eval mode; tokens[B, T] -> what its head computes.
        tokenizer_file: tokenizers' JSON, or the folder of a vocabulary, if the checkpoint keeps one.
        source_format: the name of the format that it was read from.
        meta: the rest of what the checkpoint tells: iteration, layout, ...
    """

    config: ModelConfig
    model: Stage
    tokenizer_file: Path | None
    source_format: str
    meta: Meta


def _tokenizer(meta: Meta) -> Path | None:
    file = meta.tokenizer
    return file.parent if file is not None and is_vocabulary(file) else file


def load_model(
    path: str | Path, dtype: torch.dtype = torch.float32, format: str | None = None, family: str | None = None
) -> LoadedModel:
    """The model at `path`, a checkpoint in any format, with its weights as `dtype` on the CPU.

    Raises:
        MccError: it is no checkpoint, it is damaged, or its tokenizer belongs to another model.
    """
    plugin = detect(path, format)
    source = plugin.open_as(Path(path), family)
    meta = source.meta
    check_vocabulary(meta.tokenizer, meta.config.vocab_size)
    return LoadedModel(
        config=meta.config,
        model=build_model(source, dtype),
        tokenizer_file=_tokenizer(meta),
        source_format=plugin.name,
        meta=meta,
    )


def load_stage(
    path: str | Path,
    axes: Axes,
    layers: Callable[[ModelConfig], range],
    dtype: torch.dtype = torch.float32,
    trained: bool = True,
) -> LoadedModel:
    """A rank's part of the model at `path`: the tensor-parallel shards of some layers, and nothing else of it.

    Args:
        path: a checkpoint in any format, of any layout.
        axes: this rank's place in tensor parallelism.
        layers: the model -> the layers of this rank's pipeline stage; the embedding is with the first layer, the
            output layer with the last.
        dtype: of the weights.
        trained: with the codecs that were trained with the model.

    Raises:
        MccError: as `load_model`.
        UsageError: the model cannot be cut so.
    """
    plugin = detect(path)
    source = plugin.open(Path(path))
    meta = source.meta
    check_vocabulary(meta.tokenizer, meta.config.vocab_size)
    meta.config.require_tp(axes.size)
    return LoadedModel(
        config=meta.config,
        model=build_stage(source, axes, layers(meta.config), dtype, trained),
        tokenizer_file=_tokenizer(meta),
        source_format=plugin.name,
        meta=meta,
    )


def build_model(source: Source, dtype: torch.dtype = torch.float32) -> Stage:
    """The whole model of `source`, in eval mode, with the codecs that were trained with it; rows of the vocabulary's
    padding are zero."""
    return build_stage(source, Axes(), range(source.meta.config.num_layers), dtype)


@torch.no_grad()
def build_stage(
    source: Source, axes: Axes, layers: range, dtype: torch.dtype = torch.float32, trained: bool = True
) -> Stage:
    """`build_model` of one rank's part, read a tensor at a time."""
    config, family = source.meta.config, families.get(source.meta.config.family)()
    shapes = source.shapes()
    with torch.device("meta"):  # no memory and no initialisation for what is replaced at once
        first, last = layers.start == 0, layers.stop == config.num_layers
        model = family.build(config, axes, layers, first, last)
        codecs = [name for name in shapes if trained and _trained_in(name, layers)]
        insert(model, {name: sent_channels(name, shapes[name]) for name in codecs})
    model = model.to(dtype).to_empty(device="cpu").eval()
    for name, parameter in model.named_parameters():
        assert name in shapes, f"the family's table lacks {name}"
        parameter.copy_(_part(source, name, parameter.shape, family.row(name).tp_dim, axes, dtype))
    return model.requires_grad_(False)


def _trained_in(name: str, layers: range) -> bool:
    """Whether the tensor is of a codec that was trained with one of the layers; one between two is with the first."""
    return is_trained(name) and next(int(part) for part in name.split(".") if part.isdigit()) in layers


def _part(source: Source, name: str, shape: torch.Size, dim: int | None, axes: Axes, dtype: torch.dtype) -> Tensor:
    """This rank's shard of a tensor; only the vocabulary may have fewer rows in `source` than the ranks together."""
    if dim is None or axes.size == 1:
        return pad_rows(source.read_as(name, dtype), shape[0])
    there, start = source.shapes()[name][dim], axes.rank * shape[dim]
    length = max(0, min(shape[dim], there - start))
    if not length:
        part = torch.zeros(0, *shape[1:])
    elif MASTER in source.slots():  # the whole is of the exact copies, too
        part = source.read_as(name, dtype).narrow(dim, start, length)
    else:
        part = cast(source.read_part(name, dim, start, length), dtype, name)
    return pad_rows(part, shape[0]) if dim == 0 else part


@torch.no_grad()
def logits(loaded: LoadedModel, tokens_BT: Tensor) -> Tensor:
    """Logits [B, T, V] of the true vocabulary for token ids [B, T]; of a head without a vocabulary what it computes.

    Raises:
        MccError: there are more tokens than the model has positions, or an id is not in the vocabulary.
    """
    config = loaded.config
    if tokens_BT.shape[1] > config.positions:
        raise MccError(
            f"{tokens_BT.shape[1]} tokens for a model of {config.positions} positions", "cut them into windows"
        )
    if tokens_BT.numel() and not 0 <= int(tokens_BT.min()) <= int(tokens_BT.max()) < config.vocab_size:
        raise MccError(f"a token id is not below the vocabulary's {config.vocab_size}", "use the model's own tokenizer")
    found = loaded.model(tokens_BT)
    out: Tensor = found[0] if isinstance(found, tuple) else found
    return out[..., : config.vocab_size] if config.head in LANGUAGE else out
