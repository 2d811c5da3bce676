"""Checkpoints as other systems leave them, and as several ranks of a training run do, for conversions to start from."""

from __future__ import annotations

import json
import math
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as mp
from synthetic import Synthetic, config_of, write

from mcc.ckpt.manifest import write_manifest
from mcc.ckpt.native import MODEL, save
from mcc.ckpt.pieces import Piece
from mcc.ckpt.source import Layout, Meta
from mcc.models.base.family import families
from mcc.models.base.forms import FORMS, pad_rows, shard, split

ADAM = ("exp_avg", "exp_avg_sq")
_RANKS = 2
_CORE = {
    "norm1": "input_layernorm",
    "norm2": "pre_mlp_layernorm",
    "attention.qkv": "self_attention.linear_qkv",
    "attention.out": "self_attention.linear_proj",
    "mlp.up": "mlp.linear_fc1",
    "mlp.down": "mlp.linear_fc2",
}
_OUTSIDE = {
    "embedding.tokens.weight": "embedding.word_embeddings.weight",
    "embedding.positions.weight": "embedding.position_embeddings.weight",
    "final_norm.weight": "decoder.final_layernorm.weight",
    "final_norm.bias": "decoder.final_layernorm.bias",
}


def build(origin: str, folder: Path, family: str, gigabytes: float) -> None:
    """Write a model of about that size; `origin` is a format, perhaps with `+adam`, or `mcc@2` for two ranks' files."""
    if origin in _BUILD:
        _BUILD[origin](folder, family, gigabytes)
        return
    name, _, adam = origin.partition("+")
    write(folder, family, gigabytes / (3 if adam else 1), name, ADAM if adam else ())


def _ranks(folder: Path, family: str, gigabytes: float) -> None:
    """As `mcc train` saves on two tensor-parallel ranks: one file each."""
    folder.mkdir()
    mp.spawn(_save_rank, (str(folder), family, gigabytes), nprocs=_RANKS)


def _save_rank(rank: int, folder: str, family: str, gigabytes: float) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/.meeting", rank=rank, world_size=_RANKS)
    config = config_of(family, gigabytes)
    source, plugin = Synthetic(config), families.get(family)()
    padded = config.padded_vocab_size(_RANKS)
    state: dict[str, Any] = {}
    for name, row, _ in plugin.table(config):
        whole = source.read(name)
        whole = pad_rows(whole, padded) if row.shape[0] == "V" else whole
        part = shard(whole, row.tp_dim, rank, _RANKS).contiguous()
        state[MODEL + name] = Piece.shard(part, row.tp_dim, rank, _RANKS)
    save(Path(folder), 100, state, {}, None)
    if rank == 0:
        meta = Meta(config=config, iteration=100, layout=Layout(tp=_RANKS), padded_vocab_size=padded)
        write_manifest(Path(folder) / "iter_0000100", "mcc", meta)
        (Path(folder) / ".meeting").unlink()
    dist.destroy_process_group()


def _deepspeed(folder: Path, family: str, gigabytes: float) -> None:
    """ZeRO-1 of two ranks around a model of transformers: fp32 masters in one flat row, cut in two."""
    config = config_of(family, gigabytes)
    source, plugin = Synthetic(config), families.get(family)()
    shapes: OrderedDict[str, torch.Size] = OrderedDict()
    flat: list[torch.Tensor] = []
    for name, row, layer in plugin.table(config):
        names = row.hf_names(layer)
        for theirs, tensor in zip(names, split(source.read(name), FORMS[row.hf_form], config, len(names)), strict=True):
            shapes[theirs] = tensor.shape
            flat.append(tensor.reshape(-1))
    row_of_numbers = torch.cat(flat)
    tag = folder / "global_step100"
    tag.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(plugin.to_hf_config(config)))
    common = {"module": None, "param_shapes": [shapes], "global_steps": 100, "dp_world_size": _RANKS}
    torch.save(common, tag / "mp_rank_00_model_states.pt")
    half = math.ceil(len(row_of_numbers) / _RANKS)
    for rank in range(_RANKS):
        part = row_of_numbers[rank * half : (rank + 1) * half].clone()
        state = {
            "single_partition_of_fp32_groups": [part],
            "base_optimizer_state": {"state": {}, "param_groups": []},
            "partition_count": [_RANKS],
        }
        torch.save({"optimizer_state_dict": state}, tag / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    (folder / "latest").write_text(tag.name)


def _core(folder: Path, family: str, gigabytes: float) -> None:
    """Megatron core's torch_dist: each kind of a layer's tensor is one for all layers."""
    config = config_of("gpt2", gigabytes)
    source = Synthetic(config)
    layers: dict[str, list[torch.Tensor]] = {}
    state: dict[str, torch.Tensor] = {}
    for name in source.shapes():
        if name in _OUTSIDE:
            state[_OUTSIDE[name]] = source.read(name)
        else:
            _, _, rest = name.split(".", 2)
            place, _, leaf = rest.rpartition(".")
            layers.setdefault(f"decoder.layers.{_CORE[place]}.{leaf}", []).append(source.read(name))
    state |= {key: torch.stack(held) for key, held in layers.items()}
    checkpoint = folder / "iter_0000100"
    checkpoint.mkdir(parents=True)
    dcp.save(state, storage_writer=dcp.FileSystemWriter(checkpoint), no_dist=True)
    args = Namespace(
        num_layers=config.num_layers, hidden_size=config.hidden_size, num_attention_heads=config.num_attention_heads,
        ffn_hidden_size=config.ffn_size, max_position_embeddings=config.seq_length, seq_length=config.seq_length,
        padded_vocab_size=config.vocab_size, vocab_size=config.vocab_size, group_query_attention=False,
        normalization="LayerNorm", swiglu=False, add_bias_linear=True, position_embedding_type="learned_absolute",
        untie_embeddings_and_output_weights=False, tensor_model_parallel_size=1, pipeline_model_parallel_size=1,
    )  # fmt: skip
    torch.save({"args": args, "iteration": 100, "checkpoint_version": 3.0}, checkpoint / "common.pt")
    (checkpoint / "metadata.json").write_text(json.dumps({"sharded_backend": "torch_dist"}))
    (folder / "latest_checkpointed_iteration.txt").write_text("100")


_BUILD = {"mcc@2": _ranks, "deepspeed": _deepspeed, "megatron-core": _core}
