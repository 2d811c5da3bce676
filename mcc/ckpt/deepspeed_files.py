"""The files of a DeepSpeed checkpoint: found, and read as tensors by name and model-parallel rank.

    RUN/latest                                                the tag: the folder of the newest checkpoint
    RUN/TAG/mp_rank_MM_model_states.pt                        the module, its counters, what the run put beside it
    RUN/TAG/zero_pp_rank_D_mp_rank_MM_model_states.pt         the same with ZeRO-3, whose weights are all in the next
    RUN/TAG/[bf16_]zero_pp_rank_D_mp_rank_MM_optim_states.pt  data-parallel rank D's part of masters and moments
    RUN/TAG/layer_LL-model_TT-model_states.pt                 a layer of a pipeline, on tensor-parallel rank TT
    RUN/TAG/zero/PARAMETER/{fp32,exp_avg,exp_avg_sq}.pt       a universal checkpoint: whole parameters

MM counts the tensor-parallel ranks of the first pipeline stage, then those of the second, and so on.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mcc.ckpt.deepspeed_zero import MASTER, ZeroShards
from mcc.ckpt.naming import Held
from mcc.ckpt.torch_read import FileTensor, by_name, open_torch
from mcc.core.errors import MccError

LATEST = ("latest", "latest_universal")

_MODEL = re.compile(r"(?:zero_pp_rank_(\d+)_)?mp_rank_(\d+)(?:_\d+)?_model_states\.pt")
_OPTIMIZER = re.compile(r"(?:bf16_|fp16_)?zero_pp_rank_(\d+)_mp_rank_(\d+)_?optim_states\.pt")
_LAYER = re.compile(r"layer_(\d+)(?:-model_(\d+))?-model_states\.pt")
_EXPERTS = re.compile(r".*(?:_expert_\d+_|expp_rank_).*\.pt")


@dataclass(kw_only=True)
class Files:
    """What a checkpoint's folder has: files by the ranks in their names, `model` and `optimizer` by (MM, D)."""

    folder: Path
    model: dict[tuple[int, int], Path] = field(default_factory=dict)
    optimizer: dict[tuple[int, int], Path] = field(default_factory=dict)
    layers: dict[tuple[int, int], Path] = field(default_factory=dict)
    universal: bool = False

    @property
    def ranks(self) -> list[int]:
        """The model-parallel ranks that have a file."""
        return sorted({rank for rank, _ in (*self.model, *self.optimizer)})


def find(path: Path) -> Files | None:
    """The checkpoint that `path` is, or that its `latest` names; None when there is none."""
    tags = [path]
    for name in LATEST:
        try:
            tag = (path / name).read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            continue
        tags += [path / tag] if tag and Path(tag).name == tag else []
    return next((files for files in map(_files, tags) if files.model), None)


def _files(folder: Path) -> Files:
    found = Files(folder=folder, universal=(folder / "zero").is_dir())
    for file in sorted(folder.glob("*.pt")) if folder.is_dir() else ():
        if match := _MODEL.fullmatch(file.name):
            found.model[int(match[2]), int(match[1] or 0)] = file
        elif match := _OPTIMIZER.fullmatch(file.name):
            found.optimizer[int(match[2]), int(match[1])] = file
        elif match := _LAYER.fullmatch(file.name):
            found.layers[int(match[1]), int(match[2] or 0)] = file
    return found


def refuse_experts(files: Files) -> None:
    """Mixtures of experts keep each expert in files of its own, which no family here has.

    Raises:
        MccError: names the first.
    """
    for file in sorted(files.folder.glob("*.pt")):
        if _EXPERTS.fullmatch(file.name):
            raise MccError(f"{file} holds experts: mcc has no mixture of experts")


def load_state(file: Path) -> dict[str, Any]:
    """What a `*_model_states.pt` holds.

    Raises:
        MccError: it is not DeepSpeed's.
    """
    state = open_torch(file)
    if not isinstance(state, dict) or not ("module" in state or "param_shapes" in state):
        raise MccError(f"{file} has neither module nor param_shapes", "it is not DeepSpeed's")
    return state


def universal_tensors(files: Files, state: Mapping[str, Any]) -> dict[str, Held]:
    """The whole parameters of a universal checkpoint; `state` is of a model's file, which knows shapes made flat.

    Raises:
        MccError: a parameter's file is missing or truncated.
    """
    any_file = next(iter(files.model.values()))
    told = {name: shape for group in _param_shapes(state, any_file) for name, shape in group.items()}
    found = {}
    for entry in sorted((files.folder / "zero").iterdir()):
        if not entry.is_dir():
            continue
        file, name = entry / f"{MASTER}.pt", entry.name
        tensor = _universal(file)
        shape = tensor.shape
        if len(shape) == 1 and math.prod(told.get(name, ())) == shape[0]:
            shape = told[name]  # from ZeRO-3 parameters come flat
        slots = {
            other.stem: partial(_read_universal, other, shape)
            for other in sorted(entry.glob("*.pt"))
            if other.stem not in (MASTER, "step")
        }
        read = partial(_read_universal, file, shape)
        found[clean(name)] = Held(file=file, name=name, shape=shape, dtype=tensor.dtype, read=read, slots=slots)
    return found


def _universal(file: Path) -> FileTensor:
    loaded = open_torch(file)
    tensor = loaded.get("param") if isinstance(loaded, dict) else loaded
    if not isinstance(tensor, FileTensor):
        raise MccError(f"{file} has no param", "it is not a universal checkpoint's")
    return tensor


def _read_universal(file: Path, shape: tuple[int, ...]) -> Tensor:
    tensor = _universal(file)
    if math.prod(tensor.shape) != math.prod(shape):
        raise MccError(f"{file}: its tensor has shape {list(tensor.shape)}, not {list(shape)}", "is it damaged?")
    return tensor.read().view(shape)


def rank_tensors(files: Files, rank: int, state: Mapping[str, Any]) -> tuple[dict[str, Held], ZeroShards | None]:
    """The tensors of one model-parallel rank, and the optimizer's shards that they are in, if any.

    Weights are the optimizer's masters where there are such, else the module's. `state` is of the rank's model file.

    Raises:
        MccError: a file is missing, truncated, or of another run.
    """
    file = next(path for (number, _), path in sorted(files.model.items()) if number == rank)
    shapes = _param_shapes(state, file)
    found: dict[str, Held] = {}
    partitioned = (rank, 1) in files.model or file.name.startswith("zero_pp_rank")
    if not partitioned and isinstance(state.get("module"), Mapping):
        for name, tensor in _flatten(state["module"]):
            found[name] = _whole(file, name, tensor)
    found |= _frozen(files, rank, state, file, partitioned)
    held = {dp: path for (number, dp), path in files.optimizer.items() if number == rank}
    if not held:
        if partitioned or files.optimizer:
            raise MccError(
                f"missing shard {files.folder}/zero_pp_rank_0_mp_rank_{rank:02d}_optim_states.pt: it has "
                "the masters of this rank's weights",
                "copy the whole folder again",
            )
        return found, None
    world = state.get("dp_world_size")
    for number in range(max(1 + max(held), world if isinstance(world, int) else 0)):
        if number not in held:
            name = held[min(held)].name.replace(f"zero_pp_rank_{min(held)}_", f"zero_pp_rank_{number}_")
            raise MccError(
                f"missing shard {files.folder / name}: data-parallel rank {number} has a part of the weights",
                "copy the whole folder again",
            )
    if not shapes:
        raise MccError(f"{file} has no param_shapes", "it was written by DeepSpeed before 0.4: convert it there")
    zero = ZeroShards([held[number] for number in sorted(held)], shapes)
    for name, shape in zero.names().items():
        found[clean(name)] = Held(
            file=zero.files[0], name=name, shape=shape, dtype=zero.dtype(), read=zero.reader(MASTER, name),
            slots={slot: zero.reader(slot, name) for slot in zero.slots},
        )  # fmt: skip
    aliases = state.get("shared_params")
    for alias, name in aliases.items() if isinstance(aliases, Mapping) else ():
        if clean(str(name)) in found:
            found[clean(str(alias))] = found[clean(str(name))]
    return found, zero


def layer_tensors(files: Files, tp_rank: int) -> dict[str, Held]:
    """The tensors of a pipeline's layers on one tensor-parallel rank, `<number of the layer>.<name>`."""
    found: dict[str, Held] = {}
    for (layer, rank), file in sorted(files.layers.items()):
        if rank == tp_rank:
            loaded = _flatten(by_name(open_torch(file), file))
            found |= {f"{layer}.{name}": _whole(file, name, tensor) for name, tensor in loaded}
    return found


def clean(name: str) -> str:
    """A parameter's name without what wrappers put before it."""
    for prefix in ("module.", "_orig_mod."):
        name = name.removeprefix(prefix)
    return name


def _whole(file: Path, name: str, tensor: FileTensor) -> Held:
    return Held(file=file, name=name, shape=tensor.shape, dtype=tensor.dtype, read=tensor.read)


def _flatten(level: Mapping[str, Any], prefix: str = "") -> list[tuple[str, FileTensor]]:
    """Every tensor by its dotted name: Megatron-LM's modules nest theirs."""
    found: list[tuple[str, FileTensor]] = []
    for key, value in level.items():
        if isinstance(value, Mapping):
            found += _flatten(value, f"{prefix}{key}.")
        elif isinstance(value, FileTensor) and not str(key).endswith("_extra_state"):
            found.append((clean(f"{prefix}{key}"), value))
    return found


def _param_shapes(state: Mapping[str, Any], file: Path) -> list[dict[str, tuple[int, ...]]]:
    held = state.get("param_shapes") or []
    groups = [held] if isinstance(held, Mapping) else held
    try:
        return [{str(name): tuple(int(size) for size in shape) for name, shape in group.items()} for group in groups]
    except (TypeError, ValueError, AttributeError) as error:
        raise MccError(f"{file}: param_shapes are malformed: {error}", "is it damaged?") from error


def _frozen(files: Files, rank: int, state: Mapping[str, Any], file: Path, partitioned: bool) -> dict[str, Held]:
    """Parameters that were not trained, which no optimizer holds: whole, or with ZeRO-3 one part on every rank."""
    shapes, fragments = state.get("frozen_param_shapes"), state.get("frozen_param_fragments")
    if not isinstance(shapes, Mapping) or not isinstance(fragments, Mapping):
        return {}
    parts = [fragments]
    if partitioned:
        others = [path for (number, dp), path in sorted(files.model.items()) if number == rank and path != file]
        parts += [load_state(path).get("frozen_param_fragments") or {} for path in others]
    found = {}
    for name, shape in shapes.items():
        held = [tensor for part in parts if isinstance(tensor := part.get(name), FileTensor)]
        if len(held) < len(parts):
            raise MccError(f"{file}: the frozen parameter {name} is not on every rank", "is a shard missing?")
        found[clean(str(name))] = Held(
            file=file, name=str(name), shape=tuple(shape), dtype=held[0].dtype,
            read=partial(_joined, held, tuple(shape), file, str(name)),
        )  # fmt: skip
    return found


def _joined(parts: list[FileTensor], shape: tuple[int, ...], file: Path, name: str) -> Tensor:
    count = math.prod(shape)
    flat = torch.cat([part.read().reshape(-1) for part in parts])
    if len(flat) < count:
        raise MccError(
            f"{file}: the frozen parameter {name} has {len(flat)} numbers, not {count}", "a shard is missing"
        )
    return flat[:count].view(shape)
