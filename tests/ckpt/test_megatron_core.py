"""Megatron core's distributed checkpoints, laid out by a script of the tests', give the tensors that went into them."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.checkpoint.planner import SavePlan

from mcc.ckpt.convert import convert
from mcc.ckpt.format import detect, formats, open_checkpoint
from mcc.core.errors import MccError, UsageError
from mcc.models.base.config import ModelConfig
from tests.ckpt import core_run as run
from tests.ckpt.deepspeed_run import foreign
from tests.ckpt.models import SMALL, InMemory
from tests.ckpt.test_foreign import Hostile

LOCAL = {
    "norm1": "input_layernorm", "norm2": "pre_mlp_layernorm", "attention.qkv": "self_attention.linear_qkv",
    "attention.out": "self_attention.linear_proj", "mlp.up": "mlp.linear_fc1", "mlp.down": "mlp.linear_fc2",
}  # fmt: skip
CUT = {"attention.qkv": 0, "mlp.up": 0, "attention.out": 1, "mlp.down": 1}
OUTSIDE = {
    "embedding.tokens.weight": "embedding.word_embeddings.weight",
    "embedding.positions.weight": "embedding.position_embeddings.weight",
    "embedding.types.weight": "embedding.tokentype_embeddings.weight",
    "output.weight": "output_layer.weight",
    "top.transform.dense.weight": "lm_head.dense.weight", "top.transform.dense.bias": "lm_head.dense.bias",
    "top.transform.norm.weight": "lm_head.layer_norm.weight", "top.transform.norm.bias": "lm_head.layer_norm.bias",
    "top.bias": "output_layer.bias", "top.pooler.weight": "pooler.dense.weight", "top.pooler.bias": "pooler.dense.bias",
    "top.order.weight": "binary_head.weight", "top.order.bias": "binary_head.bias",
}  # fmt: skip
MOMENTS = {"exp_avg": lambda w: w * 2 + 1, "exp_avg_sq": lambda w: w * w}


def core_key(name: str, block: str, fused: bool) -> str:
    """Megatron core's name without the layer's number; `fused`: norms inside the projections (Transformer Engine)."""
    if not name.startswith("layers."):
        return OUTSIDE.get(name, name.replace("final_norm", f"{block}.final_layernorm"))
    place, leaf = ".".join(name.split(".")[2:-1]), name.rpartition(".")[2]
    if fused and place in ("norm1", "norm2"):
        return f"{block}.layers.{LOCAL['attention.qkv' if place == 'norm1' else 'mlp.up']}.layer_norm_{leaf}"
    return f"{block}.layers.{LOCAL[place]}.{leaf}"


def core_tensors(
    values: dict[str, Tensor], config: ModelConfig, *, tp: int = 2, block: str = "decoder", fused: bool = False,
    numbered: bool = False, prefix: str = "", change: Callable[[Tensor], Tensor] = lambda w: w,
) -> dict[str, run.Parts]:  # fmt: skip
    """What a run of `tp` tensor-parallel ranks and a pipeline saves of `values`, changed and named with a prefix."""
    found: dict[str, run.Parts] = {}
    per_layer: dict[str, list[Tensor]] = {}
    axes: dict[str, int | None] = {}
    rows = config.padded_vocab_size(tp)
    for name, whole in values.items():
        key = core_key(name, block, fused)
        tensor = change(whole)
        if not name.startswith("layers."):
            if whole.shape[0] == config.vocab_size:
                tensor = torch.cat([tensor, tensor.new_zeros(rows - len(tensor), *tensor.shape[1:])])
                found[prefix + key] = run.Parts(tensor, {0: tp})
            else:
                found[prefix + key] = run.Parts(tensor, {})
            continue
        axis = CUT.get(".".join(name.split(".")[2:-1]))
        axis = None if axis == 1 and name.endswith("bias") else axis
        if numbered:
            number = name.split(".")[1]
            cuts = {} if axis is None else {axis: tp}
            found[prefix + key.replace(".layers.", f".layers.{number}.")] = run.Parts(tensor, cuts)
        per_layer.setdefault(key, []).append(tensor)
        axes[key] = axis
    if not numbered:
        found |= {prefix + key: run.stacked(layers, axes[key], tp) for key, layers in per_layer.items()}
    return found


def with_optimizer(values: dict[str, Tensor], config: ModelConfig, **more: Any) -> dict[str, run.Parts]:
    """Moments and masters beside weights in bfloat16."""
    tensors = core_tensors(values, config, **more, change=lambda w: w.bfloat16())
    for slot, change in {**MOMENTS, "fp32_param": lambda w: w}.items():
        tensors |= core_tensors(values, config, **more, prefix=f"optimizer.state.{slot}.", change=change)
    return tensors


def common(**sizes: Any) -> dict[str, Any]:
    groups = [{"lr": 0.1, "step": 9, "params": [0]}]
    return {
        "args": run.args(**sizes),
        "iteration": 10,
        "checkpoint_version": 3.0,
        "optimizer": {"param_groups": groups},
    }


@pytest.mark.parametrize("numbered", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_model_and_optimizer(tmp_path: Path, numbered: bool, fused: bool) -> None:
    model = InMemory()
    tensors = with_optimizer(model.values, SMALL, numbered=numbered, fused=fused)
    run.write(tmp_path / "run" / "iter_0000010", tensors, common())
    assert detect(tmp_path / "run").name == "megatron-core"
    source = open_checkpoint(tmp_path / "run")
    assert source.shapes() == model.shapes()
    assert source.slots() == ("exp_avg", "exp_avg_sq")
    for name, whole in model.values.items():
        assert torch.equal(source.read(name), whole), name
        for slot, change in MOMENTS.items():
            assert torch.equal(source.read_slot(slot, name), change(whole)), (slot, name)
    meta = source.meta
    assert (meta.iteration, meta.padded_vocab_size, meta.config.vocab_size, meta.unread) == (10, 304, 301, ())
    assert (meta.layout.tp, meta.layout.pp) == (2, 2)
    assert meta.extra["optimizer"] == {"name": "adam", "updates": 9}
    if not fused:
        convert(tmp_path / "run", tmp_path / "ours", "mcc")
        assert open_checkpoint(tmp_path / "ours").slots() == ("exp_avg", "exp_avg_sq")


@pytest.mark.parametrize("two", [False, True])
def test_llama(tmp_path: Path, two: bool) -> None:
    """SwiGLU's halves are one tensor, gate above up, or two: `weight_w` and `weight_v`."""
    config = ModelConfig(
        family="llama", num_layers=2, hidden_size=32, num_attention_heads=4, num_query_groups=2, ffn_hidden_size=48,
        seq_length=16, vocab_size=301, make_vocab_size_divisible_by=8, untie_embeddings_and_output_weights=True,
    )  # fmt: skip
    model = InMemory(config)
    values = dict(model.values)
    gates = [values.pop(f"layers.{i}.mlp.gate.weight") for i in range(2)]
    ups = [values.pop(f"layers.{i}.mlp.up.weight") for i in range(2)]
    tensors = core_tensors(values, config, numbered=two)
    for i in range(2) if two else ():
        key = f"decoder.layers.{i}.mlp.linear_fc1.weight"
        tensors |= {f"{key}_w": run.Parts(gates[i], {0: 2}), f"{key}_v": run.Parts(ups[i], {0: 2})}
    if not two:
        both = [torch.cat(pair) for pair in zip(gates, ups, strict=True)]
        tensors["decoder.layers.mlp.linear_fc1.weight"] = run.stacked(both, 0, 4)
    sizes = {
        "num_layers": 2, "group_query_attention": True, "num_query_groups": 2, "ffn_hidden_size": 48, "swiglu": True,
        "normalization": "RMSNorm", "add_bias_linear": False, "position_embedding_type": "rope",
        "untie_embeddings_and_output_weights": True,
    }  # fmt: skip
    run.write(tmp_path / "iter_0000010", tensors, common(**sizes))
    source = open_checkpoint(tmp_path)
    assert source.meta.config.family == "llama"
    assert source.slots() == ()
    for name, whole in model.values.items():
        assert torch.equal(source.read(name), whole), name


def test_bert(tmp_path: Path) -> None:
    config = ModelConfig(
        family="megatron-bert", head="pretraining", num_layers=2, hidden_size=32, num_attention_heads=4, seq_length=16,
        vocab_size=301, make_vocab_size_divisible_by=8,
    )  # fmt: skip
    model = InMemory(config)
    run.write(tmp_path / "iter_0000010", core_tensors(model.values, config, block="encoder"), common(num_layers=2))
    source = open_checkpoint(tmp_path)
    assert (source.meta.config.family, source.meta.config.head) == ("megatron-bert", "pretraining")
    for name, whole in model.values.items():
        assert torch.equal(source.read(name), whole), name


def test_state_of_one_runs_buffers_is_left_out(tmp_path: Path) -> None:
    tensors = core_tensors(InMemory().values, SMALL)
    bucket = "optimizer.distributed.dp_group_idx_0.gbuf_idx_0.dtype_float32.bucket_idx_0.exp_avg"
    tensors[bucket] = run.Parts(torch.ones(64), {0: 2})
    run.write(tmp_path / "iter_0000010", tensors, common())
    source = open_checkpoint(tmp_path)
    assert source.slots() == ()
    assert source.meta.unread == ("optimizer state that belongs to one run's buffers",)


def test_descriptions_with_what_megatron_cores_loader_wants(tmp_path: Path) -> None:
    """0.15 derived a class of its own from torch's description; 0.16 puts every rank's plan into torch's."""
    folder = tmp_path / "iter_0000010"
    run.write(folder, core_tensors(InMemory().values, SMALL), common())
    described = pickle.loads((folder / ".metadata").read_bytes())
    names = [f"megatron.core.dist_checkpointing.strategies.torch.{name}" for name in ("MCoreMetadata", "MCoreSavePlan")]
    with foreign(*names) as (cls, plan):
        theirs = cls()
        items = run.Parts(torch.ones(4), {0: 2}).__create_write_items__("x", None)
        theirs.__dict__.update(vars(described), mcore_data={"x": {"shape": (1,)}})
        theirs.all_local_plans = [plan(), SavePlan(items)]
        (folder / ".metadata").write_bytes(pickle.dumps(theirs))
    source = open_checkpoint(tmp_path)
    name = "layers.3.mlp.down.weight"
    assert torch.equal(source.read(name), InMemory().values[name])


def test_damage_is_named(tmp_path: Path) -> None:
    run.write(tmp_path / "good" / "iter_0000010", core_tensors(InMemory().values, SMALL), common())

    def broken(change: Callable[[Path], None]) -> str:
        shutil.rmtree(tmp_path / "bad", ignore_errors=True)
        shutil.copytree(tmp_path / "good", tmp_path / "bad")
        change(tmp_path / "bad" / "iter_0000010")
        with pytest.raises(MccError) as error:
            source = open_checkpoint(tmp_path / "bad")
            for name in source.shapes():
                source.read(name)
        assert "\n" not in error.value.what
        return error.value.what

    def arguments(folder: Path, **sizes: Any) -> None:
        torch.save(common(**sizes), folder / "common.pt")

    def plain(folder: Path) -> None:
        torch.save({"iteration": 3}, folder / "common.pt")

    data = "__0_0.distcp"
    what = broken(lambda folder: (folder / data).unlink())
    assert f"{data}: tensor" in what and what.startswith("missing file")
    what = broken(lambda folder: os.truncate(folder / data, (folder / data).stat().st_size // 2))
    assert f"{data} is truncated in tensor" in what
    assert "common.pt" in broken(lambda folder: (folder / "common.pt").unlink())
    assert ".metadata cannot be read" in broken(lambda folder: os.truncate(folder / ".metadata", 100))
    assert "has no arguments (args)" in broken(plain)
    assert "num_layers = 6, but the files hold 4 layers" in broken(lambda folder: arguments(folder, num_layers=6))
    what = broken(lambda folder: arguments(folder, hidden_size=64))
    assert "has shape" in what and data in what
    what = broken(lambda folder: arguments(folder, swiglu=True))
    assert "swiglu = True is another architecture" in what
    zarr = json.dumps({"sharded_backend": "zarr"})
    assert "kept as zarr" in broken(lambda folder: (folder / "metadata.json").write_text(zarr) and None)


def test_hostile_files_are_refused_by_name(tmp_path: Path) -> None:
    mark = tmp_path / "it ran"
    attack = Hostile(os.system, f"touch '{mark}'")
    run.write(tmp_path / "good" / "iter_0000010", core_tensors(InMemory().values, SMALL), common())

    def refused(change: Callable[[Path], None]) -> str:
        shutil.rmtree(tmp_path / "bad", ignore_errors=True)
        shutil.copytree(tmp_path / "good", tmp_path / "bad")
        change(tmp_path / "bad" / "iter_0000010")
        with pytest.raises(MccError) as error:
            source = open_checkpoint(tmp_path / "bad")
            for name in source.shapes():
                source.read(name)
        assert not mark.exists()
        assert "\n" not in error.value.what
        return error.value.what

    def tensors(folder: Path) -> None:
        """Every part of every tensor, in a file as long as the description says."""
        import io

        file = folder / "__0_0.distcp"
        held = io.BytesIO()
        torch.save(attack, held)
        size = file.stat().st_size
        described = pickle.loads((folder / ".metadata").read_bytes())
        for where in described.storage_data.values():
            object.__setattr__(where, "offset", 0)
            object.__setattr__(where, "length", len(held.getvalue()))
        (folder / ".metadata").write_bytes(pickle.dumps(described))
        file.write_bytes(held.getvalue() + bytes(size))

    what = refused(lambda folder: torch.save({"args": attack}, folder / "common.pt"))
    assert "common.pt mentions" in what and "system, which no checkpoint needs: refused" in what
    what = refused(lambda folder: (folder / ".metadata").write_bytes(pickle.dumps(attack)) and None)
    assert "system, which describes no tensors: refused" in what
    assert "system" in refused(tensors)


def test_writing_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="format megatron-core is read, not written: its names"):
        formats.get("megatron-core")().write(InMemory(), tmp_path / "out")
