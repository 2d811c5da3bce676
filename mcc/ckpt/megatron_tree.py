"""Facts of Megatron-LM's classic per-rank files: nested model tree, order of QKV rows, names of files.

np heads of this shard   hn channels of a head   T tensor-parallel ranks   P pipeline stages
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from mcc.ckpt.torch_read import FileTensor
from mcc.core.errors import MccError, UsageError
from mcc.models.base.family import Param, Where, generic

Value = TypeVar("Value")

TRACKER = "latest_checkpointed_iteration.txt"
FILES = ("model_optim_rng.pt", "model_rng.pt")
_NEXT = "{next}"
HEAD = "word_embeddings_for_head.weight"
VERSIONS = (0.0, 1.0, 2.0, 3.0)

_RANK = re.compile(r"mp_rank_(\d{2,})(?:_(\d{3,}))?")
# Whose keys are flat below them; every other level is a dictionary of its own.
_FLAT = ("language_model.encoder.", "language_model.pooler.", "word_embeddings_for_head.", "lm_head.", "binary_head.")
# Older names and the ones since.
_RENAMED = (("language_model.transformer.", "language_model.encoder."), (".attention.", ".self_attention."))
_NORMS = (
    ("input_layernorm", "input_norm"),
    ("post_attention_layernorm", "post_attention_norm"),
    ("final_layernorm", "final_norm"),
    ("lm_head.layernorm", "lm_head.norm"),
)


def rank_folder(tp_rank: int, pp_rank: int, pp: int) -> str:
    """The folder of one rank.

    >>> rank_folder(1, 0, 1), rank_folder(1, 2, 4)
    ('mp_rank_01', 'mp_rank_01_002')
    """
    return f"mp_rank_{tp_rank:02d}" + (f"_{pp_rank:03d}" if pp > 1 else "")


def iteration_folder(iteration: int) -> str:
    """`release` stands for weights that no run goes on from."""
    return f"iter_{iteration:07d}" if iteration else "release"


def model_keys(vpp: int) -> list[str]:
    """What a rank's file calls its chunks of layers.

    >>> model_keys(1), model_keys(2)
    (['model'], ['model0', 'model1'])
    """
    return ["model"] if vpp == 1 else [f"model{chunk}" for chunk in range(vpp)]


def chunks(values: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The model trees of a rank's file, one for each of its chunks; none when there is no model."""
    if isinstance(values.get("model"), Mapping):
        return [values["model"]]
    found: list[Mapping[str, Any]] = []
    while isinstance(model := values.get(f"model{len(found)}"), Mapping):
        found.append(model)
    return found


def in_chunk(chunk: int, vpp: int) -> str:
    """What stands before a key in messages.

    >>> in_chunk(0, 1), in_chunk(2, 4)
    ('', 'model2.')
    """
    return "" if vpp == 1 else f"model{chunk}."


def rank_files(folder: Path) -> dict[tuple[int, int], Path]:
    """(tp rank, pp rank) -> file, for every rank folder in `folder`."""
    found = {}
    for entry in sorted(folder.glob("mp_rank_*")):
        match = _RANK.fullmatch(entry.name)
        file = next((entry / name for name in FILES if (entry / name).is_file()), None)
        if match and file:
            found[int(match[1]), int(match[2] or 0)] = file
    return found


def tracked(path: Path) -> Path:
    """The iteration's folder that `path` is, or that its tracker names.

    Raises:
        MccError: the tracker is malformed or names a folder that is not there.
    """
    tracker = path / TRACKER
    if not tracker.is_file():
        return path
    text = tracker.read_text(encoding="utf-8").strip()
    if text != "release" and not text.isdecimal():
        raise MccError(f"{tracker} holds {text[:40]!r}, neither 'release' nor a number")
    folder = path / ("release" if text == "release" else f"iter_{int(text):07d}")
    if not folder.is_dir():
        raise MccError(f"{tracker} names {folder.name}, which is not there", "give an iteration's folder itself")
    return folder


def version_named(version: float) -> float:
    """The checkpoint version that `version` asks for; every 2.x is 2.0 and every 3.x is 3.0.

    Raises:
        UsageError: there is no such version.
    """
    if float(int(version)) not in VERSIONS:
        raise UsageError(f"unknown Megatron checkpoint version {version:g}", "known: 0, 1, 2, 3")
    return float(int(version))


def qkv_to(rows: Tensor, version: float, head_dim: int) -> Tensor:
    """One shard's fused rows, ours [np, 3, hn], as `version` orders: 0 [3, np, hn], 1 [np, hn, 3], later ours.

    Versions 2 and 3 alone have shared key/value heads, in our order too.
    """
    if version >= 2:
        return rows
    split = rows.reshape(-1, 3, head_dim, *rows.shape[1:])
    return split.transpose(*((1, 2) if version >= 1 else (0, 1))).reshape(rows.shape).contiguous()


def qkv_from(rows: Tensor, version: float, head_dim: int) -> Tensor:
    """The inverse of `qkv_to`."""
    if version >= 2:
        return rows
    if version >= 1:
        split = rows.reshape(-1, head_dim, 3, *rows.shape[1:]).transpose(1, 2)
    else:
        split = rows.reshape(3, -1, head_dim, *rows.shape[1:]).transpose(0, 1)
    return split.reshape(rows.shape).contiguous()


def spelling(name: str) -> str:
    """One spelling of a tensor's name for all versions: norms were renamed when RMSNorm came.

    >>> spelling("language_model.encoder.final_norm.weight")
    'language_model.encoder.final_layernorm.weight'
    """
    for old, new in _NORMS:
        name = name.replace(f"{new}.", f"{old}.")
    return name


def place_of(row: Param, layer: int | None, layers: int) -> tuple[int | Where, str]:
    """Where Megatron-LM keeps a parameter of the layer `layer` (None: of none) of a model of so many: the layer whose
    chunk has it, or the first or the last chunk; and its name there, with `{i}` for the index in the chunk.

    A post-LN BERT's layer ends with a norm. There, with --apply-residual-connection-post-layernorm, a layer begins with
    it: the embedding's norm is the first layer's, and the last one's the final norm.
    """
    if layer is None:
        return row.where, row.megatron
    if _NEXT not in row.megatron:
        return layer, row.megatron
    if layer + 1 < layers:
        return layer + 1, row.megatron.replace(_NEXT, "{i}")
    return "last", _final(row.megatron)


def names_of(row: Param) -> set[str]:
    """A row's names there, `{i}` for every index."""
    return {name_of(row), spelling(_final(row.megatron))} if _NEXT in row.megatron else {name_of(row)}


def name_of(row: Param) -> str:
    """A row's name there, but for the last layer."""
    return spelling(generic(row.megatron.replace(_NEXT, "{i}")))


def _final(name: str) -> str:
    return name.replace(f"layers.{_NEXT}.input_layernorm", "final_layernorm")


def nest(flat: Mapping[str, Value]) -> dict[str, Any]:
    """The model tree as Megatron-LM nests it."""
    tree: dict[str, Any] = {}
    for key, tensor in flat.items():
        head = next((prefix for prefix in _FLAT if key.startswith(prefix)), None)
        path = [*head.split(".")[:-1], key.removeprefix(head)] if head else key.split(".")
        level = tree
        for part in path[:-1]:
            level = level.setdefault(part, {})
        level[path[-1]] = tensor
    return tree


def flatten(tree: Mapping[str, Any]) -> dict[str, FileTensor]:
    """Every tensor of a model tree by its dotted name, in today's spelling."""
    flat: dict[str, FileTensor] = {}

    def walk(level: Mapping[str, Any], prefix: str) -> None:
        for key, value in level.items():
            name = f"{prefix}{key}"
            if isinstance(value, Mapping):
                walk(value, f"{name}.")
            elif isinstance(value, FileTensor) and not name.endswith("_extra_state"):
                for old, new in _RENAMED:
                    name = name.replace(old, new)
                flat[spelling(name)] = value

    walk(tree, "")
    return flat
