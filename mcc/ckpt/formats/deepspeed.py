"""DeepSpeed's checkpoints: ZeRO-1, 2 and 3, pipelines' layer files, universal checkpoints; read only.

The module is Megatron-DeepSpeed's GPT or BERT, told by its names, or any of transformers' that mcc has, with the
config.json that stands in the folder or above it. Weights are the optimizer's fp32 masters where there are such. For
the files see `mcc.ckpt.deepspeed_files`, for what is in them `mcc.ckpt.deepspeed_zero`.
"""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mcc.ckpt import deepspeed_files as ds
from mcc.ckpt.deepspeed_zero import ZeroShards
from mcc.ckpt.format import ReadOnly
from mcc.ckpt.naming import Held, Named, from_megatron, from_transformers, is_megatron
from mcc.ckpt.source import Layout, Meta, Source, expected_shapes
from mcc.ckpt.tokenizer_files import TOKENIZER
from mcc.core.errors import MccError

if TYPE_CHECKING:
    from torch import Tensor

_PIPELINE = re.compile(r"(?:tied_modules\.\w+|\d+)\..+")
_BODY = ("self_attention.", "mlp.", "input_layernorm.", "post_attention_layernorm.")


class _DeepSpeed(Source):
    def __init__(self, files: ds.Files) -> None:
        ds.refuse_experts(files)
        states = {rank: ds.load_state(file) for (rank, _), file in sorted(files.model.items(), reverse=True)}
        first = states[min(states)]
        layout, dp = (Layout(), 1) if files.universal else _layout(files, first)
        zero: ZeroShards | None = None
        ranks: list[dict[str, Held]] = [{} for _ in range(layout.tp)]
        if files.universal:
            ranks = [_canonical([ds.universal_tensors(files, first)])]
        else:
            by_tp: list[list[dict[str, Held]]] = [[] for _ in range(layout.tp)]
            for rank in range(layout.tp * layout.pp):
                # Of weights in both, the masters count: they come later in the dictionary.
                layers = ds.layer_tensors(files, rank % layout.tp) if rank < layout.tp else {}
                held, zero = ds.rank_tensors(files, rank, states[rank])
                by_tp[rank % layout.tp] += [layers, held]
            ranks = [_canonical(stages) for stages in by_tp]
        named = self._name(files, ranks, first)
        self._places = named.places
        self._shapes = expected_shapes(named.config)
        slots = [set(part.slots) for place in self._places.values() for part in place.parts]
        self._slots = tuple(sorted(set.intersection(*slots)))
        self.meta = Meta(
            config=named.config,
            iteration=_count(first, "iteration", "global_steps"),
            layout=Layout(tp=layout.tp, pp=layout.pp, dp=dp),
            padded_vocab_size=named.padded_vocab_size,
            tokenizer=_beside(files, TOKENIZER),
            extra={
                "deepspeed": str(first.get("ds_version", "unknown")),
                "zero": "universal" if files.universal else _stage(first, zero),
                "weights_from": "fp32 masters" if zero is not None or files.universal else "the module",
                "vocabulary_from": named.vocabulary_from,
                "consumed_samples": _count(first, "global_samples"),
                **_optimizer(self._slots, zero, first),
            },
            unread=named.unread,
        )

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return self._shapes

    def dtypes(self) -> dict[str, torch.dtype]:
        return {name: place.parts[0].dtype for name, place in self._places.items()}

    def read(self, name: str) -> Tensor:
        place = self._places[name]
        return place.join([part.read() for part in place.parts])

    def slots(self) -> tuple[str, ...]:
        return self._slots

    def read_slot(self, slot: str, name: str) -> Tensor:
        if slot not in self._slots:
            return super().read_slot(slot, name)
        place = self._places[name]
        return place.join([part.slots[slot]() for part in place.parts])

    def file_of(self, name: str) -> Path | None:
        return self._places[name].parts[0].file

    def _name(self, files: ds.Files, ranks: list[dict[str, Held]], state: Mapping[str, Any]) -> Named:
        if is_megatron(ranks[0]):
            info = state.get("universal_checkpoint_info")
            told = info.get("original_vocab_size") if isinstance(info, Mapping) else None
            version = float(state.get("checkpoint_version", 3.0))
            tokenizer = _beside(files, TOKENIZER)
            args = _args(state.get("args"))
            return from_megatron(ranks, args, files.folder, vocab_size=told, version=version, tokenizer=tokenizer)
        if len(ranks) > 1:
            raise MccError(
                f"{files.folder}: {len(ranks)} model-parallel ranks of a module that is not Megatron-LM's",
                "gather it with DeepSpeed first, or convert it to a universal checkpoint",
            )
        config = _beside(files, "config.json")
        if config is None:
            raise MccError(
                f"{files.folder} does not tell what model it is of: {next(iter(ranks[0]), 'no tensor')} ...",
                f"put the model's config.json beside {ds.LATEST[0]}",
            )
        return from_transformers(ranks[0], config, files.folder)


class DeepSpeed(ReadOnly):
    """DeepSpeed's ZeRO-1, 2 and 3, pipelines' layer files and universal checkpoints."""

    looks_for = f"mp_rank_00_model_states.pt, or '{ds.LATEST[0]}' naming a folder with such a file"
    read_only = "only DeepSpeed knows how its running engine has flattened and ordered the parameters"

    def detect(self, path: Path) -> bool:
        return ds.find(path) is not None

    def open(self, path: Path) -> Source:
        files = ds.find(path)
        if files is None:
            raise MccError(f"{path} has no {self.looks_for}", "copy the whole checkpoint again")
        return _DeepSpeed(files)


def _layout(files: ds.Files, state: Mapping[str, Any]) -> tuple[Layout, int]:
    """(TP x PP, data-parallel ranks), checked against the files that are there.

    Raises:
        MccError: a model-parallel rank's file is missing.
    """
    args = state.get("args")
    layers = 1 + max((rank for _, rank in files.layers), default=0)
    tp = max(layers, getattr(args, "tensor_model_parallel_size", 1 if files.layers else len(files.ranks)))
    told = state.get("mp_world_size")
    count = max(len(files.ranks), 1 + max(files.ranks), tp, told if isinstance(told, int) else 0)
    pp = max(-(-count // tp), getattr(args, "pipeline_model_parallel_size", 1) if files.layers else 1)
    for rank in range(tp * pp):
        if rank not in {number for number, _ in files.model}:
            name = next(iter(files.model.values())).name.replace(f"mp_rank_{files.ranks[0]:02d}", f"mp_rank_{rank:02d}")
            raise MccError(
                f"missing shard {files.folder / name}: model-parallel rank {rank} of TP {tp} x PP {pp}",
                "a part of the model is in it",
            )
    for layer in {number for number, _ in files.layers}:
        for rank in range(tp):
            if (layer, rank) not in files.layers:
                name = f"layer_{layer:02d}-model_{rank:02d}-model_states.pt"
                raise MccError(f"missing shard {files.folder / name}", "copy the whole folder again")
    dp = max((1 + number for _, number in (*files.optimizer, *files.model)), default=1)
    return Layout(tp=tp, pp=pp), dp


def _canonical(stages: list[dict[str, Held]]) -> dict[str, Held]:
    """One tensor-parallel rank's tensors over all stages, a pipeline's under the names that the whole model has.

    A pipeline numbers its layers, among them some that are only functions: `3.mlp.dense_4h_to_h.bias`.
    """
    # Tied modules are on the first and on the last stage; the first counts, and masters count before the module's.
    merged: dict[str, Held] = {}
    for stage in stages:
        for name, held in stage.items():
            if name not in merged or (held.slots and not merged[name].slots):
                merged[name] = held
    if not merged or not all(_PIPELINE.fullmatch(name) for name in merged):
        return merged
    numbers = {int(name.partition(".")[0]) for name in merged if name.partition(".")[2].startswith(_BODY)}
    order = {str(number): i for i, number in enumerate(sorted(numbers))}
    found: dict[str, Held] = {}
    for name, held in merged.items():
        prefix, _, key = name.removeprefix("tied_modules.").partition(".")
        if prefix in order and not name.startswith("tied_modules."):
            name = f"language_model.encoder.layers.{order[prefix]}.{key}"
        elif "embeddings." in key:
            name = f"language_model.embedding.{key}"
        elif key.startswith("lm_head."):
            name = f"language_model.output_layer.{key.removeprefix('lm_head.')}"
        elif key in ("weight", "bias"):
            name = f"language_model.encoder.final_layernorm.{key}"
        if name not in found or (held.slots and not found[name].slots):
            found[name] = held
    return found


def _args(args: object) -> object:
    """Megatron-DeepSpeed's arguments in the spelling of Megatron-LM."""
    if not isinstance(args, Namespace):
        return args
    values = dict(vars(args))
    norms = {"layernorm": "LayerNorm", "rmsnorm": "RMSNorm"}
    values["normalization"] = norms.get(values.get("normalization", "layernorm"), values.get("normalization"))
    rotary = values.get("use_rotary_position_embeddings", False)
    values.setdefault("position_embedding_type", "rope" if rotary else "learned_absolute")
    values.setdefault("rotary_base", values.get("rotary_position_embeddings_theta", 10000))
    groups = values.get("num_key_value_heads")
    if groups and groups != values.get("num_attention_heads"):
        values |= {"group_query_attention": True, "num_query_groups": groups}
    return Namespace(**values)


def _beside(files: ds.Files, name: str) -> Path | None:
    """A file in the tag's folder or above it, where transformers' Trainer and users put it."""
    return next((file for file in (files.folder / name, files.folder.parent / name) if file.is_file()), None)


def _count(state: Mapping[str, Any], *names: str) -> int:
    return next((int(state[name]) for name in names if isinstance(state.get(name), (int, float))), 0)


def _stage(state: Mapping[str, Any], zero: ZeroShards | None) -> object:
    """The stage: of the run's configuration, since the files only tell 3 from 1 and 2."""
    config = state.get("ds_config")
    told = config.get("zero_optimization") if isinstance(config, Mapping) else None
    stage = told.get("stage") if isinstance(told, Mapping) else None
    if isinstance(stage, int):
        return stage
    return 0 if zero is None else 3 if zero.stage == 3 else "1 or 2"


def _optimizer(slots: tuple[str, ...], zero: ZeroShards | None, state: Mapping[str, Any]) -> dict[str, object]:
    """What a run needs to go on from the moments, in `mcc train`'s words."""
    if "exp_avg" not in slots:
        return {}
    updates = zero.updates if zero is not None else None
    return {"optimizer": {"name": "adam", "updates": _count(state, "global_steps") if updates is None else updates}}
