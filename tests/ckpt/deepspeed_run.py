"""Checkpoints laid out as DeepSpeed lays them out, by a plain script: torch.save, lists and slices, nothing of mcc's.

After DeepSpeed 0.19: runtime/engine.py, runtime/zero/stage_1_and_2.py and stage3.py, runtime/pipe/module.py,
checkpoint/ds_to_universal.py; and Megatron-DeepSpeed's checkpointing.py and gpt_model.py.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

MOMENTS = ("exp_avg", "exp_avg_sq")
State = Mapping[str, tuple[Tensor, Tensor, Tensor]]  # name -> (master, exp_avg, exp_avg_sq)
STEPS = 7


@contextmanager
def foreign(*names: str) -> Iterator[list[type]]:
    """Classes of modules that are not installed, as the writer's process had them."""
    made, before = [], dict(sys.modules)
    for name in names:
        module, _, kind = name.rpartition(".")
        parts = module.split(".")
        for end in range(1, len(parts) + 1):
            sys.modules.setdefault(".".join(parts[:end]), ModuleType(".".join(parts[:end])))
        cls = type(kind, (), {"__module__": module})
        setattr(sys.modules[module], kind, cls)
        made.append(cls)
    try:
        yield made
    finally:
        for name in set(sys.modules) - set(before):
            if name.partition(".")[0] in {full.partition(".")[0] for full in names}:
                del sys.modules[name]


def save(value: Any, file: Path) -> None:
    """As DeepSpeed saves: with its loss scaler and enum among the plain values."""
    file.parent.mkdir(parents=True, exist_ok=True)
    names = ("deepspeed.runtime.fp16.loss_scaler.LossScaler", "deepspeed.runtime.zero.config.ZeroStageEnum")
    with foreign(*names) as (scaler, stage):
        if isinstance(value, dict) and "optimizer_state_dict" in value:
            held = scaler()
            held.cur_scale = 1.0
            value["optimizer_state_dict"] |= {"loss_scaler": held, "zero_stage": stage()}
        torch.save(value, file)


def optimizer_12(groups: Sequence[State], world: int, elastic: bool = False, align: int = 1) -> list[dict[str, Any]]:
    """What each data-parallel rank saves with ZeRO-1 or 2: masters without padding, moments with it.

    Since 0.19 every parameter may begin at a multiple of `align`.
    """
    gaps = [[-value[0].numel() % align for value in group.values()] for group in groups]
    ranks: list[dict[str, Any]] = []
    for rank in range(world):
        masters, state, paddings = [], {}, []
        for number, group in enumerate(groups):
            flat = [
                torch.cat([
                    torch.cat([value[part].reshape(-1), torch.zeros(gap)])
                    for value, gap in zip(group.values(), gaps[number], strict=True)
                ])
                for part in range(3)
            ]  # fmt: skip
            count = len(flat[0])
            padded = -(-count // (2 * world)) * 2 * world
            size = padded // world
            mine = [torch.cat([f, f.new_zeros(padded - count)])[rank * size : (rank + 1) * size].clone() for f in flat]
            padding = min(size, max(0, (rank + 1) * size - count))
            masters.append(mine[0][: size - padding].clone())
            paddings.append(padding)
            state[number] = {"step": torch.tensor(float(STEPS)), **dict(zip(MOMENTS, mine[1:], strict=True))}
        base: Any = {"state": state, "param_groups": [{"lr": 0.1, "params": [i]} for i in state]}
        if elastic:
            base = [
                {"step": STEPS, **{key: group[key][: len(group[key]) - pad].clone() for key in MOMENTS}}
                for group, pad in zip(state.values(), paddings, strict=True)
            ]
        ranks.append({
            "base_optimizer_state": base, "single_partition_of_fp32_groups": masters, "group_paddings": paddings,
            "partition_count": [world] * len(groups), "ds_version": "0.19.8",
            **({"param_alignment_paddings": gaps} if align > 1 else {}),
        })  # fmt: skip
    return ranks


def optimizer_3(groups: Sequence[State], world: int, sub_group: int) -> tuple[list[dict[str, Any]], list[State]]:
    """What each rank saves with ZeRO-3, and the sub-groups that it makes of the groups."""
    subs: list[dict[str, Any]] = []
    for group in groups:
        subs.append({})
        held = 0
        for name, value in group.items():
            if held > sub_group:
                subs.append({})
                held = 0
            subs[-1][name] = value
            held += -(-value[0].numel() // world)
    ranks = []
    for rank in range(world):
        flats: list[list[Tensor]] = [[], [], []]
        for sub in subs:
            for part in range(3):
                parts = []
                for value in sub.values():
                    flat = value[part].reshape(-1)
                    each = -(-len(flat) // world)
                    flat = torch.cat([flat, flat.new_zeros(each * world - len(flat))])
                    parts.append(flat[rank * each : (rank + 1) * each])
                flats[part].append(torch.cat(parts))
        state = {
            i: {"step": torch.tensor(float(STEPS)), "exp_avg": flats[1][i], "exp_avg_sq": flats[2][i]}
            for i in range(len(subs))
        }
        ranks.append({
            "fp32_flat_groups": flats[0], "partition_count": world,
            "optimizer_state_dict": {"state": state, "param_groups": []},
        })  # fmt: skip
    return ranks, subs


def write_rank(
    folder: Path, groups: Sequence[State], *, stage: int, world: int, mp: int = 0, module: Any = None,
    elastic: bool = False, align: int = 1, sub_group: int = 5000, bf16: bool = True, **client: Any,
) -> None:  # fmt: skip
    """The files of one model-parallel rank: the model's, and the optimizer's of `world` data-parallel ranks."""
    if stage == 3:
        states, groups = optimizer_3(groups, world, sub_group)
    else:
        states = optimizer_12(groups, world, elastic, align)
    shapes = [OrderedDict((name, value[0].shape) for name, value in group.items()) for group in groups]
    common = {
        "module": module, "buffer_names": [], "optimizer": None, "param_shapes": shapes, "shared_params": {},
        "frozen_param_shapes": None, "frozen_param_fragments": None, "global_steps": STEPS, "global_samples": STEPS * 8,
        "skipped_steps": 0, "dp_world_size": world, "mp_world_size": 1, "ds_version": "0.19.8",
        "ds_config": {"zero_optimization": {"stage": stage}},
    } | client  # fmt: skip
    for rank in range(world):
        prefix = f"zero_pp_rank_{rank}_" if stage == 3 else ""
        if stage == 3 or rank == 0:
            save(dict(common), folder / f"{prefix}mp_rank_{mp:02d}_model_states.pt")
        name = f"{'bf16_' if bf16 else ''}zero_pp_rank_{rank}_mp_rank_{mp:02d}_optim_states.pt"
        save({"optimizer_state_dict": states[rank], "ds_version": "0.19.8"}, folder / name)
    (folder.parent / "latest").write_text(folder.name)


def write_universal(folder: Path, whole: State, flat: bool = False, **client: Any) -> None:
    """A universal checkpoint; `flat`: as earlier versions left parameters of ZeRO-3."""
    for name, value in whole.items():
        for key, tensor in zip(("fp32", *MOMENTS), value, strict=True):
            kept = tensor.reshape(-1).clone() if flat else {"param": tensor.clone(), "cat_dim": 0}
            save(kept, folder / "zero" / name / f"{key}.pt")
        save(torch.tensor(float(STEPS)), folder / "zero" / name / "step.pt")
    shapes = [OrderedDict((name, value[0].shape) for name, value in whole.items())]
    save({"param_groups": []}, folder / "zero" / "optimizer_state.pt")
    model = {"module": None, "param_shapes": shapes, "global_steps": STEPS, "ds_version": "0.19.8"} | client
    save(model, folder / "mp_rank_00_model_states.pt")
    (folder.parent / "latest_universal").write_text(folder.name)


def gpt_args(**sizes: Any) -> Namespace:
    """Megatron-DeepSpeed's arguments, as far as they tell what the model is."""
    values: dict[str, Any] = {
        "num_layers": 4, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 4, "ffn_hidden_size": 128,
        "kv_channels": 8, "max_position_embeddings": 16, "seq_length": 16, "layernorm_epsilon": 1e-5,
        "make_vocab_size_divisible_by": 8, "padded_vocab_size": 304, "normalization": "layernorm",
        "swiglu": False,
        "add_position_embedding": True, "use_rotary_position_embeddings": False, "add_bias_linear": True,
        "untie_embeddings_and_output_weights": False,
        "tensor_model_parallel_size": 1, "pipeline_model_parallel_size": 1,
        "apply_residual_connection_post_layernorm": False, "consumed_train_samples": 56, "rotary_percent": 1.0,
    }  # fmt: skip
    return Namespace(**(values | sizes))
