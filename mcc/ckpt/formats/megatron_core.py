"""Megatron core's distributed checkpoints (`torch_dist`): whole tensors under global names; read only.

    ROOT/latest_checkpointed_iteration.txt
    ROOT/iter_0000100/metadata.json           {"sharded_backend": "torch_dist", ...}
    ROOT/iter_0000100/{.metadata, __0_0.distcp, ...}   torch.distributed.checkpoint: tensors, and where each part is
    ROOT/iter_0000100/common.pt               what all ranks share: args, iteration, the optimizer's groups

For the names see `mcc.ckpt.core_names`. Whatever the layout that saved them, tensors are whole here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mcc.ckpt import core_names as core
from mcc.ckpt.dcp import METADATA, DcpFolder
from mcc.ckpt.foreign import load_foreign
from mcc.ckpt.format import ReadOnly
from mcc.ckpt.naming import from_megatron
from mcc.ckpt.source import Layout, Meta, Source, expected_shapes
from mcc.ckpt.tokenizer_files import TOKENIZER
from mcc.core.errors import MccError

if TYPE_CHECKING:
    from torch import Tensor


class _Core(Source):
    def __init__(self, folder: Path) -> None:
        kind = core.backend(folder)
        if kind != "torch_dist":
            raise MccError(f"{folder / core.CONFIG}: tensors are kept as {kind}", "save it as torch_dist")
        common = load_foreign(folder / core.COMMON)
        if not isinstance(common, dict):
            raise MccError(f"{folder / core.COMMON} holds a {type(common).__name__}, not what the ranks share")
        self.folder = DcpFolder(folder)
        held, strange = core.tensors(self.folder)
        args = common.get("args")
        tokenizer = next((f / TOKENIZER for f in (folder, folder.parent) if (f / TOKENIZER).is_file()), None)
        version = float(common.get("checkpoint_version", 3.0))
        named = from_megatron([held], args, folder, vocab_size=None, version=version, tokenizer=tokenizer)
        self._places = named.places
        self._shapes = expected_shapes(named.config)
        parts = [part for place in self._places.values() for part in place.parts]
        self._slots = tuple(sorted(set.intersection(*(set(part.slots) for part in parts))))
        self.meta = Meta(
            config=named.config,
            iteration=int(common.get("iteration", 0)),
            layout=Layout(
                tp=int(getattr(args, "tensor_model_parallel_size", 1)),
                pp=int(getattr(args, "pipeline_model_parallel_size", 1)),
                dp=int(getattr(args, "data_parallel_size", 1)),
            ),
            padded_vocab_size=named.padded_vocab_size,
            tokenizer=tokenizer,
            extra={
                "vocabulary_from": named.vocabulary_from,
                "consumed_samples": int(getattr(args, "consumed_train_samples", 0) or 0),
                **({"optimizer": {"name": "adam", "updates": _updates(common)}} if "exp_avg" in self._slots else {}),
            },
            unread=(*named.unread, *(("optimizer state that belongs to one run's buffers",) if strange else ())),
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


class MegatronCore(ReadOnly):
    """Megatron core's distributed checkpoints (torch_dist)."""

    looks_for = f"{core.CONFIG} and {METADATA}, or {core.TRACKER} naming a folder with them"
    read_only = "its names and its state depend on the layers that a run of Megatron core is made of"

    def detect(self, path: Path) -> bool:
        return core.distributed(path) is not None

    def open(self, path: Path) -> Source:
        folder = core.distributed(path)
        if folder is None:
            raise MccError(f"{path} has no {self.looks_for}", "copy the whole checkpoint again")
        return _Core(folder)


def _updates(common: Mapping[str, Any]) -> int:
    """How many updates are behind the moments: the optimizer's own count, which all its groups share."""
    optimizer = common.get("optimizer")
    held = optimizer.get("optimizer", optimizer) if isinstance(optimizer, Mapping) else {}
    groups = held.get("param_groups") if isinstance(held, Mapping) else None
    state = held.get("state") if isinstance(held, Mapping) else None
    shared = state.get("common_step") if isinstance(state, Mapping) else None
    for step in (*(group.get("step") for group in groups or () if isinstance(group, Mapping)), shared):
        if isinstance(step, (int, float, torch.Tensor)):
            return int(step)
    return int(common.get("iteration", 0))
