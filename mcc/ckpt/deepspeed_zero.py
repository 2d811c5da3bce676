"""ZeRO's flat groups: where each parameter is in what the data-parallel ranks' optimizers saved.

W data-parallel ranks   G parameter groups (stage 3: sub-groups)   N numbers of a parameter   S numbers of a partition

Stages 1 and 2 lay a group's parameters one after the other and cut that row of numbers into W partitions of S, padded
at the end, and since DeepSpeed 0.19 perhaps after every parameter; the masters are saved without the padding at the
end, Adam's moments with it. Stage 3 cuts every parameter by itself into W parts of ceil(N / W), the last one padded,
and lays a rank's parts one after the other (Rajbhandari et al. 2020, arXiv 1910.02054). `param_shapes` in the model's
file tells the parameters' order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mcc.ckpt.torch_read import FileTensor, open_torch
from mcc.core.errors import MccError

MASTER = "fp32"
Shapes = Sequence[Mapping[str, tuple[int, ...]]]


@dataclass(frozen=True)
class _Spot:
    """A parameter's place: its group, and where it begins there (stage 3: in every rank's part of the group)."""

    group: int
    start: int
    shape: tuple[int, ...]


class ZeroShards:
    """The optimizer's files of one model-parallel rank.

    Args:
        files: one a data-parallel rank, in order.
        param_shapes: the groups' parameters in the order in which they are flattened.

    Attributes:
        stage: 3, or 2 for stages 1 and 2, which lay things out alike.
        slots: names of the optimizer state.
        updates: how many updates are behind it; None when it is not told.

    Raises:
        MccError: a file is missing or truncated, or the files are not of one run.
    """

    def __init__(self, files: Sequence[Path], param_shapes: Shapes) -> None:
        self.files = files
        states = [_optimizer(file) for file in files]
        self.stage = 3 if "fp32_flat_groups" in states[0] else 2
        self._check_world(states[0])
        key = "fp32_flat_groups" if self.stage == 3 else "single_partition_of_fp32_groups"
        self._flat: dict[str, list[list[FileTensor]]] = {MASTER: []}
        for file, state in zip(files, states, strict=True):
            groups = state.get(key)
            if not isinstance(groups, list) or not all(_is_flat(group) for group in groups):
                raise MccError(f"{file} has no {key}: it is of another stage, or damaged", "copy it again")
            if len(groups) != len(states[0][key]):
                raise MccError(f"{file} has {len(groups)} groups, {files[0].name} has {len(states[0][key])}")
            self._flat[MASTER].append(groups)
        self._add_moments(states)
        gaps = states[0].get("param_alignment_paddings")
        self._spots = self._spots_of_3(param_shapes) if self.stage == 3 else self._spots_of_2(param_shapes, gaps)

    def names(self) -> dict[str, tuple[int, ...]]:
        """Every parameter's shape."""
        return {name: spot.shape for name, spot in self._spots.items()}

    def reader(self, slot: str, name: str) -> Callable[[], Tensor]:
        """Reads the state `slot` of a parameter, `MASTER` for the weights themselves."""
        return partial(self._read, slot, name)

    def dtype(self) -> torch.dtype:
        """Of the masters."""
        return self._flat[MASTER][0][0].dtype

    def _read(self, slot: str, name: str) -> Tensor:
        """Each rank's part of a parameter, read straight into its place."""
        spot, ranks = self._spots[name], self._flat[slot]
        count = math.prod(spot.shape)
        whole = torch.empty(count, dtype=ranks[0][spot.group].dtype)
        each = -(-count // len(ranks))
        for number, rank in enumerate(ranks):
            flat = rank[spot.group]
            if self.stage == 3:
                first, start, stop = spot.start, number * each, min((number + 1) * each, count)
            else:
                at = number * ranks[0][spot.group].shape[0] - spot.start  # where this rank's numbers begin in the whole
                start, stop = max(at, 0), min(at + flat.shape[0], count)
                first = start - at
            if start < stop:
                flat.read_into(whole[start:stop], (first, first + stop - start))
        return whole.view(spot.shape)

    def _check_world(self, state: Mapping[str, Any]) -> None:
        told = state.get("partition_count")
        world = max(told, default=0) if isinstance(told, (list, tuple)) else told
        if isinstance(world, int) and world != len(self.files):
            raise MccError(
                f"{self.files[0]} is of {world} data-parallel ranks, but there are files of {len(self.files)}",
                "copy the missing ones, or remove those of another run",
            )

    def _add_moments(self, states: Sequence[Mapping[str, Any]]) -> None:
        """What the optimizer remembers, where it is there for every group on every rank."""
        self.updates: int | None = None
        found = [_base(state) for state in states]
        names = {key for group in found[0].values() for key, value in group.items() if _is_flat(value)}
        for slot in sorted(names):
            self._flat[slot] = []
            for file, base, masters in zip(self.files, found, self._flat[MASTER], strict=True):
                tensors = []
                for group, master in enumerate(masters):
                    tensor = base.get(group, {}).get(slot)
                    if not isinstance(tensor, FileTensor) or not _is_flat(tensor) or _length(tensor) < _length(master):
                        raise MccError(f"{file} has no {slot} of group {group}, or not all of it", "is it damaged?")
                    tensors.append(tensor)
                self._flat[slot].append(tensors)
        steps = [group.get("step") for group in found[0].values()]
        steps += [group.get("step") for group in _param_groups(states[0])] + [
            states[0].get("base_optimizer_state_step")
        ]
        for step in steps:
            if isinstance(step, FileTensor) and math.prod(step.shape) == 1:
                step = step.read().item()
            if isinstance(step, (int, float)):
                self.updates = int(step)
                break

    @property
    def slots(self) -> tuple[str, ...]:
        return tuple(slot for slot in self._flat if slot != MASTER)

    def _spots_of_2(self, param_shapes: Shapes, gaps: object) -> dict[str, _Spot]:
        """`gaps`: numbers left unused after each parameter of each group, since DeepSpeed 0.19."""
        groups = len(self._flat[MASTER][0])
        if len(param_shapes) != groups:
            raise MccError(f"{self.files[0]} has {groups} groups, but the model's file tells of {len(param_shapes)}")
        spots = {}
        for group, shapes in enumerate(param_shapes):
            at, held = 0, sum(_length(rank[group]) for rank in self._flat[MASTER])
            unused = gaps[group] if isinstance(gaps, list) and len(gaps) == groups else [0] * len(shapes)
            if len(unused) != len(shapes):
                raise MccError(f"{self.files[0]}: group {group} is of {len(unused)} parameters, not {len(shapes)}")
            for (name, shape), gap in zip(shapes.items(), unused, strict=True):
                spots[name] = _Spot(group, at, shape)
                at += math.prod(shape)
                if at > held:
                    raise MccError(
                        f"{self.files[-1]}: group {group} ends within parameter {name}: {held} numbers, not {at}",
                        "is a data-parallel rank's file of another run?",
                    )
                at += int(gap)
            # Partitions are aligned to 4 bytes of 16-bit numbers on every rank.
            if held - at >= max(2 * len(self.files), 2):
                raise MccError(f"{self.files[0]}: group {group} has {held} numbers, the model's parameters {at}")
        return spots

    def _spots_of_3(self, param_shapes: Shapes) -> dict[str, _Spot]:
        ranks = self._flat[MASTER]
        sizes = [_length(group) for group in ranks[0]]
        for file, rank in zip(self.files, ranks, strict=True):
            if [_length(group) for group in rank] != sizes:
                raise MccError(f"{file}: its groups are not as long as those of {self.files[0].name}")
        spots, group, at = {}, 0, 0
        for name, shape in ((name, shape) for shapes in param_shapes for name, shape in shapes.items()):
            each = -(-math.prod(shape) // len(ranks))
            while group < len(sizes) and at == sizes[group]:
                group, at = group + 1, 0
            if group == len(sizes) or at + each > sizes[group]:
                raise MccError(
                    f"{self.files[0]}: the groups end within parameter {name}", "is it of another model, or truncated?"
                )
            spots[name] = _Spot(group, at, shape)
            at += each
        if (group, at) != (len(sizes) - 1, sizes[-1]):
            raise MccError(f"{self.files[0]} has more numbers than the model's parameters")
        return spots


def _optimizer(file: Path) -> dict[str, Any]:
    loaded = open_torch(file)
    state = loaded.get("optimizer_state_dict") if isinstance(loaded, dict) else None
    if not isinstance(state, dict):
        raise MccError(f"{file} has no optimizer_state_dict", "it is not DeepSpeed's ZeRO's")
    return state


def _base(state: Mapping[str, Any]) -> dict[int, Mapping[str, Any]]:
    """What the wrapped optimizer remembers of each group; older files have a list of it without padding."""
    held = state.get("base_optimizer_state", state.get("optimizer_state_dict"))
    if isinstance(held, Mapping):
        held = held.get("state")
    found = dict(enumerate(held)) if isinstance(held, list) else held
    return {key: value for key, value in (found or {}).items() if isinstance(value, Mapping)}


def _param_groups(state: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    held = state.get("base_optimizer_state", state.get("optimizer_state_dict"))
    groups = held.get("param_groups") if isinstance(held, Mapping) else None
    return [group for group in groups or () if isinstance(group, Mapping)]


def _is_flat(value: object) -> bool:
    return isinstance(value, FileTensor) and len(value.shape) == 1


def _length(flat: FileTensor) -> int:
    return flat.shape[0]
