"""Megatron-LM's optimizer state: positions instead of names, in the order in which its modules register parameters.

One rank's state under `optimizer`, in 32 bits whatever the weights are (N slots: exp_avg, exp_avg_sq):

    fp32 training        {state: {0: {N..., step}, 1: ...}, param_groups: [{params: [0, 1, ...], ...}, ...]}
    fp16 and bf16        {optimizer: that, fp32_from_fp16_params: [[master, ...], ...], grad_scaler: {...}}

Groups: first what has weight decay, then biases and vectors, which have none (`get_param_groups`); over all chunks of a
rank. Since 2024 Megatron-LM's first group is that of the rank's first parameter: reading goes by `wd_mult`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mcc.ckpt.megatron_tree import HEAD, spelling
from mcc.ckpt.source import MASTER
from mcc.ckpt.torch_read import FileTensor
from mcc.ckpt.torch_write import Later
from mcc.core.errors import MccError

DISTRIBUTED = ("distrib_optim.pt", "optim.pt")
_HALVES = (torch.float16, torch.bfloat16)

# The modules in the order of their registration; within one a parameter of its own stands before its children's.
_ORDER = (
    *(f"language_model.embedding.{name}_embeddings." for name in ("word", "position", "tokentype")),
    "language_model.encoder.layers.",
    "language_model.encoder.final_layernorm.",
    "language_model.pooler.",
    "language_model.output_layer.",
    HEAD.removesuffix("weight"),
    "lm_head.bias",
    *("lm_head.dense.", "lm_head.layernorm.", "binary_head.", "classification_head.", "multichoice_head."),
)
_IN_LAYER = (
    *("input_layernorm.", "self_attention.query_key_value.", "self_attention.dense."),
    *("post_attention_layernorm.", "mlp.dense_h_to_4h.", "mlp.dense_4h_to_h."),
)

# What Megatron-LM's schedule of learning rate and weight decay keeps; it counts samples.
_SCHEDULE = {
    **dict.fromkeys(("max_lr", "lr_warmup_steps", "num_steps"), 0),
    "lr_decay_style": "constant",
    "lr_decay_steps": 0,
    "min_lr": 0,
    "start_wd": 0,
    "end_wd": 0,
    "wd_incr_style": "constant",
    "wd_incr_steps": 0,
}
# What apex's FusedAdam keeps of a group; Megatron-LM's schedule sets the first and the last before the next step.
_GROUP = {"lr": 0.0, "bias_correction": True, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}


def ordered(keys: Iterable[str]) -> list[str]:
    """Keys of a chunk's flat tensors as its modules register them.

    >>> ordered(["lm_head.dense.weight", "language_model.pooler.dense.bias", "lm_head.bias"])
    ['language_model.pooler.dense.bias', 'lm_head.bias', 'lm_head.dense.weight']
    """
    return sorted(keys, key=lambda key: _rank(spelling(key)))


def _rank(key: str) -> tuple[int, ...]:
    section = next((place for place, prefix in enumerate(_ORDER) if key.startswith(prefix)), len(_ORDER))
    number, _, rest = key.removeprefix("language_model.encoder.layers.").partition(".")
    if not number.isdecimal():
        return section, int(key.endswith("bias"))
    inside = next((place for place, prefix in enumerate(_IN_LAYER) if rest.startswith(prefix)), len(_IN_LAYER))
    return section, int(number), inside, int(rest.endswith("bias"))


def decays(key: str, shape: Sequence[int]) -> bool:
    """Whether Megatron-LM gives a parameter weight decay."""
    return not key.endswith(".bias") and len(shape) > 1


class RankOptimizer:
    """The optimizer state in one rank's file.

    Args:
        value: what stands under `optimizer`.
        chunks: the flat tensors of the rank's chunks.
        file: for messages.

    Attributes:
        slots: what is kept of every parameter; empty where `unread` says why.
        unread: why nothing of it can be read; empty where it can.
        updates: behind the moments.
        group: the settings of the parameters with weight decay.
    """

    def __init__(self, value: Any, chunks: Sequence[Mapping[str, FileTensor]], file: Path) -> None:
        self.slots: tuple[str, ...] = ()
        self.unread, self.updates = "", 0
        self.group: dict[str, Any] = {}
        self.scaler: dict[str, float] | None = None
        self._found: dict[tuple[int, str], dict[str, FileTensor]] = {}
        inner, masters = value, None
        if isinstance(value, dict):
            inner = next((value[key] for key in ("optimizer", "optimizer_state_dict") if key in value), value)
            masters = value.get("fp32_from_fp16_params", value.get("fp32_from_fp16"))
        beside = next((name for name in DISTRIBUTED if (file.parent / name).is_file()), None)
        if beside:
            self.unread = f"a distributed optimizer's, in {beside}"
        elif not isinstance(inner, dict) or not isinstance(inner.get("param_groups"), list):
            self.unread = "of a form that is not known"
        else:
            self._read(inner, masters, chunks, file)
            self.scaler = _scaler(value.get("grad_scaler"))

    def get(self, chunk: int, key: str, slot: str) -> FileTensor:
        """One slot of one parameter."""
        return self._found[chunk, key][slot]

    def _read(
        self, inner: dict[str, Any], masters: Any, chunks: Sequence[Mapping[str, FileTensor]], file: Path
    ) -> None:
        groups, state = inner["param_groups"], inner.get("state") or {}
        decayed, plain = split_groups([(i, key, held[key].shape) for i, held in enumerate(chunks) for key in held])
        lists = _match(groups, decayed, plain)
        if lists is None:
            self.unread = "its groups of parameters are not those of Megatron-LM's pretraining"
            return
        if not state and not masters:
            self.unread = "a distributed optimizer's, whose own file is missing" if decayed else ""
            return
        for number, (group, keys) in enumerate(zip(groups, lists, strict=True)):
            kept = iter(masters[number]) if masters else iter(())
            for position, (chunk, key) in zip(group["params"], keys, strict=True):
                param = chunks[chunk][key]
                slots = {k: v for k, v in state.get(position, {}).items() if k != "step"}
                if masters:  # a parameter of 32 bits is its own
                    slots[MASTER] = next(kept, None) if param.dtype in _HALVES else param
                for slot, tensor in slots.items():
                    if not isinstance(tensor, FileTensor) or tensor.shape != param.shape:
                        held = list(tensor.shape) if isinstance(tensor, FileTensor) else "nothing"
                        raise MccError(
                            f"{file}: optimizer state {slot} of {key} is {held}, not {list(param.shape)}",
                            "its parameters stand in another order than Megatron-LM's?",
                        )
                self._found[chunk, key] = slots
        first = next(iter(self._found.values()))
        self.slots = tuple(sorted(first))
        if any(slots.keys() != first.keys() for slots in self._found.values()):
            self.unread, self.slots = "it is not of all parameters", ()
            return
        settings = groups[lists.index(decayed)] if decayed else groups[0]
        self.group = {key: value for key, value in settings.items() if key in _GROUP and not _tensor(value)}
        steps = [group.get("step") for group in groups] + [entry.get("step") for entry in state.values()]
        self.updates = next((int(_number(step)) for step in steps if step is not None), 0)


def split_groups(
    parameters: Iterable[tuple[int, str, Sequence[int]]],
) -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
    """(chunk, key, shape) of a rank's parameters -> (chunk, key) of those with weight decay, and of those without."""
    by_chunk: dict[int, dict[str, Sequence[int]]] = {}
    for chunk, key, shape in parameters:
        by_chunk.setdefault(chunk, {})[key] = shape
    places = [(chunk, key) for chunk in sorted(by_chunk) for key in ordered(by_chunk[chunk])]
    decayed = [(chunk, key) for chunk, key in places if decays(key, by_chunk[chunk][key])]
    return decayed, [place for place in places if place not in set(decayed)]


def _match(
    groups: Sequence[Any], decayed: list[tuple[int, str]], plain: list[tuple[int, str]]
) -> list[list[tuple[int, str]]] | None:
    """The parameters of each group; None where they are other groups."""
    held = [keys for keys in (decayed, plain) if keys]
    if len(groups) != len(held) or not all(isinstance(group.get("params"), list) for group in groups):
        return None
    if len(groups) == 2 and groups[0].get("wd_mult", groups[0].get("weight_decay")) == 0:
        held.reverse()
    fits = all(len(group["params"]) == len(keys) for group, keys in zip(groups, held, strict=True))
    return held if fits else None


def build_state(
    parameters: Sequence[tuple[int, str, Mapping[str, Later]]], half: bool, known: Mapping[str, Any], samples: int
) -> dict[str, Any]:
    """What stands beside the model in a rank's file: `optimizer` and `opt_param_scheduler`.

    Args:
        parameters: (chunk, key, slots) of every parameter; `master` among the slots where the weights are halves.
        half: whether they are.
        known: `Meta.extra["optimizer"]`: updates, loss_scale, and what an earlier file's group and schedule had.
        samples: consumed.
    """
    updates = int(known.get("updates") or 0)
    slots = {(chunk, key): dict(held) for chunk, key, held in parameters}
    lists = split_groups((chunk, key, next(iter(held.values())).shape) for chunk, key, held in parameters)
    settings = {**_GROUP, **(known.get("group") or {})}
    settings["betas"] = tuple(settings["betas"])
    groups: list[dict[str, Any]] = []
    masters: list[list[Later]] = []
    state: dict[int, dict[str, Any]] = {}
    for keys, decay in zip(lists, (1.0, 0.0), strict=True):
        if not keys:
            continue
        weight_decay = settings["weight_decay"] * decay
        numbers = list(range(len(state), len(state) + len(keys)))
        groups.append(
            {**settings, "weight_decay": weight_decay, "wd_mult": decay, "lr_mult": 1.0, "step": updates}
            | {"params": numbers}
        )
        masters.append([slots[place].pop(MASTER) for place in keys if MASTER in slots[place]])
        for number, place in zip(numbers, keys, strict=True):
            state[number] = {**slots[place], "step": torch.tensor(float(updates))}
    inner: dict[str, Any] = {"state": state, "param_groups": groups}
    schedule = {**_SCHEDULE, **(known.get("schedule") or {}), "num_steps": samples}
    if not half:
        return {"optimizer": inner, "opt_param_scheduler": schedule}
    outer: dict[str, Any] = {"optimizer": inner, "fp32_from_fp16_params": masters}
    if known.get("loss_scale"):
        scale = known["loss_scale"]
        outer["grad_scaler"] = {
            "scale": torch.tensor([float(scale["scale"])]),
            "growth_tracker": int(scale.get("good", 0)),
            "hysteresis_tracker": int(scale.get("patience", 1)),
        }
    return {"optimizer": outer, "opt_param_scheduler": schedule}


def schedule_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """The schedule that a rank's file keeps, as plain values; empty where it keeps none."""
    found = values.get("opt_param_scheduler")
    return {k: v for k, v in found.items() if k in _SCHEDULE and not _tensor(v)} if isinstance(found, dict) else {}


def _scaler(value: Any) -> dict[str, float] | None:
    """A dynamic loss scale under our names; None where there is none."""
    if not isinstance(value, dict) or not {"scale", "growth_tracker", "hysteresis_tracker"} <= value.keys():
        return None
    return {
        "scale": _number(value["scale"]),
        "good": int(value["growth_tracker"]),
        "patience": int(value["hysteresis_tracker"]),
    }


def _tensor(value: Any) -> bool:
    return isinstance(value, FileTensor) or not isinstance(value, (bool, int, float, str, list, tuple))


def _number(value: Any) -> float:
    return float(value.read()) if isinstance(value, FileTensor) else float(value)
