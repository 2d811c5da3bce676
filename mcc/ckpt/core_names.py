"""Megatron core's distributed checkpoints: which tensors they have, under the names that Megatron-LM had before.

A layer's tensor is of its own (`decoder.layers.7.mlp.linear_fc2.weight`), or one for all layers whose first axis counts
them (`decoder.layers.mlp.linear_fc2.weight`). The optimizer keeps `optimizer.state.<slot>.<name>` of the same shape,
where it is plain: its bucket-wise layouts belong to one run's buffers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from mcc.ckpt.dcp import DcpFolder
from mcc.ckpt.megatron_tree import TRACKER
from mcc.ckpt.naming import Held
from mcc.core.errors import MccError

CONFIG, COMMON = "metadata.json", "common.pt"
MASTERS = ("fp32_param", "param")

Read = Callable[[], Tensor]

_STATE = re.compile(r"(?:chained_\d+\.)?optimizer\.state\.(\w+?)\.(.+)")
_LAYER = re.compile(r"(?:decoder|encoder)\.layers\.(?:(\d+)\.)?(.+)")
# Inside a layer; where norms are fused into the following projection (Transformer Engine) first.
_IN_LAYER = (
    ("self_attention.linear_qkv.layer_norm_", "input_layernorm."),
    ("mlp.linear_fc1.layer_norm_", "post_attention_layernorm."),
    ("pre_mlp_layernorm.", "post_attention_layernorm."),
    ("self_attention.linear_qkv.", "self_attention.query_key_value."),
    ("self_attention.linear_proj.", "self_attention.dense."),
    ("mlp.linear_fc1.", "mlp.dense_h_to_4h."),
    ("mlp.linear_fc2.", "mlp.dense_4h_to_h."),
)
_OUTSIDE = (
    ("embedding.", "language_model.embedding."),
    ("decoder.final_layernorm.", "language_model.encoder.final_layernorm."),
    ("encoder.final_layernorm.", "language_model.encoder.final_layernorm."),
    ("output_layer.weight", "language_model.output_layer.weight"),
    ("output_layer.bias", "lm_head.bias"),
    ("lm_head.layer_norm.", "lm_head.layernorm."),
    ("pooler.", "language_model.pooler."),
)


def distributed(path: Path) -> Path | None:
    """The folder of the distributed checkpoint that `path` is, or that its tracker names; None when it is none."""
    folders = [path]
    try:
        text = (path / TRACKER).read_text(encoding="utf-8").strip()
        folders.append(path / (f"iter_{int(text):07d}" if text.isdecimal() else "release"))
    except (OSError, ValueError):
        pass
    return next((folder for folder in folders if backend(folder) is not None), None)


def backend(folder: Path) -> str | None:
    """How the tensors of a distributed checkpoint are kept (`torch_dist`, `zarr`); None when it is none."""
    try:
        found = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("sharded_backend")
    except (OSError, ValueError, AttributeError):
        return None
    return found if isinstance(found, str) else None


def tensors(folder: DcpFolder) -> tuple[dict[str, Held], bool]:
    """Every tensor by Megatron-LM's name with its plain optimizer state, layers by number; whether other state is left.

    Raises:
        MccError: tensors disagree about the number of layers.
    """
    state: dict[str, dict[str, str]] = {}
    plain: list[str] = []
    strange = False
    for key in folder.stored:
        if match := _STATE.fullmatch(key):
            state.setdefault(match[2], {})[match[1]] = key
        elif "optimizer" in key.split(".")[:2]:
            strange = True
        elif not key.startswith(("rng_state", "rerun_state")) and "_extra_state" not in key:
            plain.append(key)
    found: dict[str, Held] = {}
    for key in plain:
        slots = state.get(key, {})
        same = {slot: other for slot, other in slots.items() if folder.stored[other][1] == folder.stored[key][1]}
        strange |= len(same) < len(slots)
        for name, held in _split(folder, key, same):
            found[name] = held
    return _halves(found), strange


def _split(folder: DcpFolder, key: str, slots: Mapping[str, str]) -> list[tuple[str, Held]]:
    """One stored tensor as Megatron-LM had it: of one layer each."""
    dtype, shape = folder.stored[key]
    file = folder.file_of(key) or folder.folder
    match = _LAYER.fullmatch(key)
    if match is None or match[1] is not None:
        name = _renamed(key, _OUTSIDE) if match is None else f"{_layer(int(match[1]))}{_renamed(match[2], _IN_LAYER)}"
        reads: dict[str, Read] = {slot: partial(folder.read, other) for slot, other in slots.items()}
        return [(name, _held(file, key, shape, dtype, partial(folder.read, key), reads))]
    if not shape:
        raise MccError(f"{file}: tensor {key} has no axis of layers", "is it damaged?")
    inner, rows = _renamed(match[2], _IN_LAYER), []
    for i in range(shape[0]):
        reads = {slot: partial(_row, folder, other, i) for slot, other in slots.items()}
        rows.append((f"{_layer(i)}{inner}", _held(file, key, shape[1:], dtype, partial(_row, folder, key, i), reads)))
    return rows


def _held(
    file: Path, key: str, shape: tuple[int, ...], dtype: torch.dtype, read: Read, slots: Mapping[str, Read]
) -> Held:
    """The masters are the weights where there are such."""
    master = next((slots[name] for name in MASTERS if name in slots), None)
    moments = {name: reader for name, reader in slots.items() if name not in MASTERS}
    kind = torch.float32 if master is not None else dtype
    return Held(file=file, name=key, shape=shape, dtype=kind, read=master or read, slots=moments)


def _row(folder: DcpFolder, key: str, layer: int) -> Tensor:
    return folder.read_part(key, 0, layer, 1)[0]


def _halves(found: dict[str, Held]) -> dict[str, Held]:
    """SwiGLU's halves, where they are kept as two (`weight_w`, `weight_v`), as the one that Megatron-LM had."""
    for name in [name for name in found if name.endswith(("weight_w", "bias_w"))]:
        first, second = found[name], found.get(f"{name[:-1]}v")
        if second is not None:
            del found[name], found[f"{name[:-1]}v"]
            shape = (first.shape[0] + second.shape[0], *first.shape[1:])
            shared = set(first.slots) & set(second.slots)
            slots = {slot: partial(_both, first.slots[slot], second.slots[slot]) for slot in shared}
            read = partial(_both, first.read, second.read)
            found[name[:-2]] = Held(
                file=first.file, name=first.name, shape=shape, dtype=first.dtype, read=read, slots=slots
            )
    return found


def _both(first: Read, second: Read) -> Tensor:
    return torch.cat([first(), second()])


def _layer(i: int) -> str:
    return f"language_model.encoder.layers.{i}."


def _renamed(key: str, table: tuple[tuple[str, str], ...]) -> str:
    for theirs, ours in table:
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    return key
