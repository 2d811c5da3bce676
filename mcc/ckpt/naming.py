"""Whose names a foreign state dict has, and which of its tensors make one of ours: transformers' or Megatron-LM's.

A model-parallel rank's tensors come as `Held`s by name, whatever the files are; `places` finds the family that the
names belong to, checks every shape, and says how each of our tensors is put together.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mcc.ckpt import megatron_tree as tree
from mcc.ckpt.hf_names import family_of, read_config, spellings
from mcc.ckpt.megatron_args import config_from_args, misfits
from mcc.ckpt.source import expected_shapes
from mcc.ckpt.tokenizer_files import token_ids
from mcc.core.errors import MccError
from mcc.models.base.config import ModelConfig
from mcc.models.base.family import TOKENS, Family, Param, families, generic
from mcc.models.base.forms import FORMS, Form, join, pad_rows, split_shapes

_LAYER = re.compile(r"\.layers\.(\d+)\.")
# Copies and constants, which nobody misses.
_KNOWN = (".attn.bias", ".attn.masked_bias", "position_ids", "inv_freq", "cls.predictions.decoder.weight")


@dataclass(frozen=True, kw_only=True)
class Held:
    """One tensor as a rank's files hold it, or a part of it.

    Args:
        file: for messages; the first of several.
        name: its name there.
        shape: of this rank's part.
        dtype: as stored.
        read: reads it.
        slots: optimizer state by name; each has the tensor's shape.
    """

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]
    slots: Mapping[str, Callable[[], Tensor]] = field(default_factory=dict)


Ranks = Sequence[Mapping[str, Held]]


@dataclass(frozen=True)
class Place:
    """One of our tensors: `join` of theirs. The optimizer's state is laid out alike."""

    parts: tuple[Held, ...]
    join: Callable[[list[Tensor]], Tensor]


@dataclass(frozen=True, kw_only=True)
class Named:
    """A model found in foreign names.

    Args:
        config: what it is.
        places: global name -> where it is.
        padded_vocab_size: rows of the embedding as stored.
        vocabulary_from: where the true size is known from.
        unread: what no model here has, in words.
    """

    config: ModelConfig
    places: dict[str, Place]
    padded_vocab_size: int
    vocabulary_from: str
    unread: tuple[str, ...]


def from_transformers(held: Mapping[str, Held], config_file: Path, where: Path) -> Named:
    """A model of transformers, with the names that it gives its parameters.

    Args:
        held: its tensors by name.
        config_file: its config.json.
        where: the checkpoint, for messages.

    Raises:
        MccError: config.json describes another model, or none that is known.
    """
    values = read_config(config_file)
    family = family_of(values, config_file)
    try:
        config = family.from_hf_config(values)
    except (KeyError, ValueError, TypeError) as error:
        raise MccError(f"{config_file} is incomplete or malformed: {error!r}") from error
    except MccError as error:
        raise MccError(f"{config_file}: {error.what}", error.hint) from error
    shapes = expected_shapes(config)
    places = {}
    for name, row, layer in family.table(config):
        form, names = FORMS[row.hf_form], row.hf_names(layer)
        parts = []
        for theirs, shape in zip(names, split_shapes(shapes[name], form, config, len(names)), strict=True):
            found = next((key for key in spellings(theirs) if key in held), None)
            if found is None:
                raise MccError(f"{where} has no tensor {theirs}", f"{config_file.name} describes another model?")
            require_shape(held[found], shape)
            parts.append(held[found])
        places[name] = Place(tuple(parts), partial(_join_hf, form=form, config=config))
    return Named(
        config=config,
        places=places,
        padded_vocab_size=config.vocab_size,
        vocabulary_from=config_file.name,
        unread=_unread(held, places, ("lm_head.weight",)),
    )


def from_megatron(
    ranks: Ranks, args: object, where: Path, *, vocab_size: int | None, version: float, tokenizer: Path | None
) -> Named:
    """A model of Megatron-LM, cut for tensor parallelism.

    Args:
        ranks: by tensor-parallel rank, every tensor of the whole pipeline by Megatron-LM's name, layers counted over
            all stages.
        args: the arguments as the files have them.
        where: the checkpoint, for messages.
        vocab_size: the true one, where the files tell it.
        version: the order of the fused projection's rows, see `megatron_tree`.
        tokenizer: tells the vocabulary where nothing else does.

    Raises:
        MccError: the names belong to no family, a tensor is missing on a rank or has another shape than the
            arguments tell.
    """
    ranks = [{tree.spelling(name): held for name, held in rank.items()} for rank in ranks]
    first = ranks[0]
    family = _megatron_family(first, args, where)
    words = tree.spelling(family.row(TOKENS).megatron)
    if words not in first:
        raise MccError(f"{where} has no tensor {words}")
    rows = first[words].shape[0] * len(ranks)
    vocabulary, origin = _vocabulary(vocab_size, args, rows, tokenizer)
    known: dict[str, Any] = {"vocab_size": vocabulary, **_head(family, first)}
    types = tree.spelling(family.row("embedding.types.weight").megatron) if family.blueprint.token_types else ""
    if types in first:
        known["num_tokentypes"] = first[types].shape[0]
    config = config_from_args(args, family, known, where)
    layers = {int(match[1]) for name in first if (match := _LAYER.search(name))}
    if layers != set(range(config.num_layers)):
        raise MccError(
            f"{where}: num_layers = {config.num_layers}, but the files hold {len(layers)} layers", "is a file missing?"
        )
    whole = expected_shapes(config)
    places = {}
    for name, row, layer in family.table(config):
        at, key = tree.place_of(row, layer, config.num_layers)
        key = tree.spelling(key.format(i=at))
        shape = list(whole[name])
        if row.shape[0] == "V":
            shape[0] = rows
        if row.tp_dim is not None:
            if shape[row.tp_dim] % len(ranks):
                raise MccError(f"{where}: TP {len(ranks)} does not divide dim {row.tp_dim} of {key}, {shape}")
            shape[row.tp_dim] //= len(ranks)
        shape[0] *= row.megatron_part[1]
        parts = [_required(rank, key, number, where) for number, rank in enumerate(ranks)]
        for part in parts:
            require_shape(part, tuple(shape))
        held = tuple(parts if row.tp_dim is not None else parts[:1])
        places[name] = Place(
            held, partial(_join_megatron, row=row, rows=whole[name][0], config=config, version=version)
        )
    return Named(
        config=config,
        places=places,
        padded_vocab_size=rows,
        vocabulary_from=origin,
        unread=_unread(first, places, (tree.HEAD,)),
    )


def is_megatron(names: Mapping[str, Held]) -> bool:
    """Whether a state dict has Megatron-LM's names."""
    return any(name.startswith("language_model.") for name in names)


def require_shape(held: Held, shape: tuple[int, ...]) -> None:
    """Refuse a tensor of another shape.

    Raises:
        MccError: names its file and the tensor.
    """
    if held.shape != shape:
        raise MccError(
            f"{held.file}: tensor {held.name} has shape {list(held.shape)}, not {list(shape)}",
            "it is of another model, or of another layout",
        )


def _join_hf(parts: list[Tensor], form: Form, config: ModelConfig) -> Tensor:
    return join(parts, form, config)


def _join_megatron(parts: list[Tensor], row: Param, rows: int, config: ModelConfig, version: float) -> Tensor:
    part, of = row.megatron_part
    if of > 1:
        parts = [whole.chunk(of)[part] for whole in parts]
    if row.shape[0] == "QKV":
        parts = [tree.qkv_from(part, version, config.head_dim) for part in parts]
    return pad_rows(parts[0] if len(parts) == 1 else torch.cat(parts, dim=row.tp_dim or 0), rows)


def _required(rank: Mapping[str, Held], key: str, number: int, where: Path) -> Held:
    if key not in rank:
        raise MccError(f"{where}: tensor-parallel rank {number} has no tensor {key}", "is a shard missing?")
    return rank[key]


def _unread(held: Mapping[str, Held], places: Mapping[str, Place], tied: tuple[str, ...]) -> tuple[str, ...]:
    read = {part.name for place in places.values() for part in place.parts}
    known = (*_KNOWN, *(() if "output.weight" in places else tied))
    left = sorted(key for key, part in held.items() if part.name not in read and not key.endswith(known))
    more = f" and {len(left) - 3} more" if len(left) > 3 else ""
    return (f"what no model here has: {', '.join(left[:3])}{more}",) if left else ()


def _megatron_family(held: Mapping[str, Held], args: object, where: Path) -> Family:
    """The family whose tensors are most nearly these."""
    names = {generic(name) for name in held}
    strays: dict[str, list[str]] = {}
    missing: dict[str, int] = {}
    for name, plugin in families.all():
        rows = [row for row in plugin.params if row.megatron]
        strays[name] = sorted(names - {named for row in rows for named in tree.names_of(row)} - {tree.HEAD})
        body = {named for row in rows if not row.heads and not row.untied for named in tree.names_of(row)}
        missing[name] = len(body - names)
    best = min(strays, key=lambda name: (len(strays[name]) + missing[name], misfits(families.get(name), args)))
    if strays[best]:
        raise MccError(
            f"{where}: tensor {strays[best][0]} belongs to no family that mcc knows", f"known: {families.names()}"
        )
    return families.get(best)()


def _head(family: Family, held: Mapping[str, Held]) -> dict[str, Any]:
    """The head that the tensors make, and its classes: the one with the most of them there."""
    there: dict[str, int] = {}
    for head in family.blueprint.heads:
        needed = {tree.spelling(row.megatron) for row in family.params if head in row.heads}
        if needed <= held.keys():
            there[head] = len(needed)
    head = max(there, key=lambda name: there[name], default=family.blueprint.heads[0])
    if head != "classification":
        return {"head": head}
    return {"head": head, "num_labels": held["classification_head.weight"].shape[0]}


def _vocabulary(told: int | None, args: object, rows: int, tokenizer: Path | None) -> tuple[int, str]:
    """(true vocabulary, where it is known from)."""
    for value, origin in ((told, "universal_checkpoint_info"), (getattr(args, "vocab_size", None), "args.vocab_size")):
        if isinstance(value, int) and 0 < value <= rows:
            return value, origin
    if tokenizer is not None:
        counted = max(token_ids(tokenizer).values()) + 1
        if counted <= rows:
            return counted, tokenizer.name
    return rows, "the padded size: the true one is not told"
