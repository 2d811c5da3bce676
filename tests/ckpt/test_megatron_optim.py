"""Optimizer state in Megatron-LM's files: its order and form, and exact round trips.

`gpt_stage` and `bert_stage` register parameters as Megatron-LM's modules do (language model: embedding, layers, last
norm, pooler; then the copy of the word embeddings, then the heads), and `groups_of` divides them as its
`get_param_groups` does, so that torch's own optimizer says which position is whose.
"""

from __future__ import annotations

import dataclasses
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mcc.ckpt.convert import convert
from mcc.ckpt.format import WriteOptions, formats, open_checkpoint
from mcc.ckpt.load import load_model
from mcc.ckpt.megatron_tree import nest
from mcc.ckpt.source import MASTER, Source
from mcc.core.errors import MccError
from mcc.models.base.config import ModelConfig
from tests.ckpt.models import SMALL, InMemory, assert_same_tensors

ADAM = ("exp_avg", "exp_avg_sq")
BERT = ModelConfig(
    family="megatron-bert", head="pretraining", num_layers=4, hidden_size=32, num_attention_heads=4, seq_length=16,
    vocab_size=301, make_vocab_size_divisible_by=8,
)  # fmt: skip
LLAMA = dataclasses.replace(SMALL, family="llama", num_query_groups=2)


def write(folder: Path, source: Source, **options: Any) -> Path:
    formats.get("megatron")().write(source, folder, WriteOptions(**options))
    return folder


def same_state(a: Source, b: Source) -> None:
    assert set(a.slots()) == set(b.slots())
    for slot in a.slots():
        for name in a.shapes():
            x, y = a.read_slot(slot, name), b.read_slot(slot, name)
            assert x.dtype == y.dtype == torch.float32
            assert torch.equal(x, y), (slot, name)


def layer(config: ModelConfig, tp: int) -> nn.Module:
    hidden, inner = config.hidden_size, config.ffn_size
    module = nn.Module()
    module.input_layernorm = nn.LayerNorm(hidden)
    module.self_attention = nn.Module()
    module.self_attention.query_key_value = nn.Linear(hidden, 3 * hidden // tp)
    module.self_attention.dense = nn.Linear(hidden // tp, hidden)
    module.post_attention_layernorm = nn.LayerNorm(hidden)
    module.mlp = nn.Module()
    module.mlp.dense_h_to_4h = nn.Linear(hidden, inner // tp)
    module.mlp.dense_4h_to_h = nn.Linear(inner // tp, hidden)
    return module


class LMHead(nn.Module):
    def __init__(self, rows: int, hidden: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(rows))
        self.dense = nn.Linear(hidden, hidden)
        self.layernorm = nn.LayerNorm(hidden)


def stage(config: ModelConfig, tp: int, layers: int, first: bool, last: bool) -> nn.Module:
    """A chunk of layers as Megatron-LM builds it, on one tensor-parallel rank."""
    hidden, rows = config.hidden_size, config.padded_vocab_size(tp) // tp
    bert = config.family == "megatron-bert"
    model, language = nn.Module(), nn.Module()
    model.language_model = language
    if first:
        language.embedding = nn.Module()
        language.embedding.word_embeddings = nn.Embedding(rows, hidden)
        language.embedding.position_embeddings = nn.Embedding(config.positions, hidden)
        if bert:
            language.embedding.tokentype_embeddings = nn.Embedding(2, hidden)
    language.encoder = nn.Module()
    language.encoder.layers = nn.ModuleList([layer(config, tp) for _ in range(layers)])
    if last:
        language.encoder.final_layernorm = nn.LayerNorm(hidden)
        if bert:
            language.pooler = nn.Module()
            language.pooler.dense = nn.Linear(hidden, hidden)
        if not first:
            model.word_embeddings = nn.Embedding(rows, hidden)
        if bert:
            model.lm_head = LMHead(rows, hidden)
            model.binary_head = nn.Linear(hidden, 2)
    return model


def groups_of(chunks: list[nn.Module], order: str = "wd first") -> list[dict[str, Any]]:
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for chunk in chunks:
        for name, parameter in chunk.named_parameters():
            (plain if name.endswith(".bias") or parameter.dim() == 1 else decayed).append(parameter)
    groups = [
        {"params": decayed, "wd_mult": 1.0, "lr_mult": 1.0},
        {"params": plain, "wd_mult": 0.0, "lr_mult": 1.0},
    ]
    return groups if order == "wd first" else groups[::-1]


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def load(file: Path) -> dict[str, Any]:
    return torch.load(file, weights_only=False)  # our own file: as Megatron-LM reads it


def plain(value: Any) -> Any:
    """A tree that `==` compares, tensors as their bytes."""
    if isinstance(value, Tensor):
        return value.dtype, tuple(value.shape), value.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    if isinstance(value, Namespace):
        return plain(vars(value))
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


@pytest.mark.parametrize("config", [SMALL, BERT], ids=["gpt", "bert"])
@pytest.mark.parametrize("place", [(0, 0), (1, 1)])
def test_adam_of_megatrons_modules_takes_our_state(tmp_path: Path, config: ModelConfig, place: tuple[int, int]) -> None:
    source = InMemory(config, slots=ADAM, iteration=30)
    write(tmp_path, source, tp=2, pp=2, vpp=2)
    rank, pipeline = place
    values = load(tmp_path / f"iter_0000030/mp_rank_{rank:02d}_{pipeline:03d}/model_optim_rng.pt")
    first, last = pipeline == 0, pipeline == 1
    chunks = [stage(config, 2, 1, first, False), stage(config, 2, 1, False, last)]
    adam = torch.optim.AdamW(groups_of(chunks))
    adam.load_state_dict(values["optimizer"])
    assert [group["wd_mult"] for group in adam.param_groups] == [1.0, 0.0]
    assert {group["step"] for group in adam.param_groups} == {30}
    for number, chunk in enumerate(chunks):
        model = dict(leaves(values[f"model{number}"]))
        mine = dict(chunk.named_parameters())
        assert {name.replace("word_embeddings_for_head", "word_embeddings") for name in model} == set(mine)
        for name, weight in model.items():
            parameter = mine[name.replace("word_embeddings_for_head", "word_embeddings")]
            assert parameter.shape == weight.shape, name
            state = adam.state[parameter]
            assert state["step"].item() == 30
            rows = weight.abs().sum(dim=-1) > 0 if "word_emb" in name or name == "lm_head.bias" else slice(None)
            if name == "lm_head.bias":
                rows = weight != 0  # padding has no state of its own
            for slot, more in (("exp_avg", 1), ("exp_avg_sq", 2)):
                assert torch.allclose(state[slot][rows], weight[rows] + more), (name, slot)


def test_halves_have_masters_in_the_groups_order(tmp_path: Path) -> None:
    """The form of Float16OptimizerWithFloat16Params."""
    source = InMemory(slots=ADAM, iteration=8)
    source.meta.extra["optimizer"] = {"updates": 6, "loss_scale": {"scale": 4096.0, "good": 17, "patience": 2}}
    write(tmp_path, source, tp=2, dtype="float16")
    values = load(tmp_path / "iter_0000008/mp_rank_01/model_optim_rng.pt")
    assert sorted(values) == [
        *("args", "checkpoint_version", "iteration", "model", "opt_param_scheduler", "optimizer"),
    ]
    assert values["args"].params_dtype == torch.float16
    outer = values["optimizer"]
    assert sorted(outer) == ["fp32_from_fp16_params", "grad_scaler", "optimizer"]
    assert outer["grad_scaler"]["scale"].tolist() == [4096.0]
    assert (outer["grad_scaler"]["growth_tracker"], outer["grad_scaler"]["hysteresis_tracker"]) == (17, 2)
    assert values["opt_param_scheduler"]["num_steps"] == 64
    inner = outer["optimizer"]
    assert [group["step"] for group in inner["param_groups"]] == [6, 6]
    assert {"lr", "betas", "eps", "weight_decay", "bias_correction"} <= inner["param_groups"][0].keys()
    decayed, plain = outer["fp32_from_fp16_params"]
    # embedding 2, a layer's matrices 4; a layer's vectors 8, the last norm 2
    assert (len(decayed), len(plain)) == (2 + 4 * 4, 4 * 8 + 2)
    assert [group["params"] for group in inner["param_groups"]] == [list(range(18)), list(range(18, 52))]
    assert torch.equal(decayed[1], source.values["embedding.positions.weight"])
    assert torch.equal(decayed[5], source.values["layers.0.mlp.down.weight"][:, 64:])
    assert torch.equal(plain[1], source.values["layers.0.norm1.bias"])
    assert torch.equal(inner["state"][19]["exp_avg"], plain[1] + 1)
    weight = values["model"]["language_model"]["encoder"]["layers.0.mlp.dense_4h_to_h.weight"]
    assert torch.equal(weight, decayed[5].half())
    assert {tensor.dtype for tensor in (*decayed, *plain)} == {torch.float32}


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
@pytest.mark.parametrize(
    ("config", "tp", "pp", "vpp", "version"),
    [(SMALL, 1, 1, 1, 3), (BERT, 2, 2, 2, 3), (SMALL, 2, 4, 1, 1), (BERT, 1, 2, 1, 0), (LLAMA, 2, 2, 1, 2)],
    ids=["gpt", "bert-tp2-pp2-vpp2", "gpt-tp2-pp4-v1", "bert-pp2-v0", "llama-tp2-pp2-v2"],
)
def test_state_comes_back(
    tmp_path: Path, config: ModelConfig, dtype: str | None, tp: int, pp: int, vpp: int, version: int
) -> None:
    source = InMemory(config, slots=ADAM, iteration=30)
    back = open_checkpoint(write(tmp_path, source, tp=tp, pp=pp, vpp=vpp, dtype=dtype, megatron_version=version))
    assert back.meta.unread == ()
    assert back.meta.extra["optimizer"]["updates"] == 30
    if dtype is None:
        assert_same_tensors(back, source)
        same_state(back, source)
        return
    assert set(back.slots()) == {*ADAM, MASTER}
    for name, tensor in source.values.items():
        assert torch.equal(back.read(name), tensor.bfloat16())
        assert torch.equal(back.read_slot(MASTER, name), tensor)
        assert torch.equal(back.read_as(name, torch.float32), tensor)
        assert torch.equal(back.read_slot("exp_avg_sq", name), source.read_slot("exp_avg_sq", name))


@pytest.mark.parametrize("dtype", ["float16", None])
def test_to_our_format_and_back(tmp_path: Path, dtype: str | None) -> None:
    """mcc -> megatron -> mcc has the same weights and moments; megatron -> mcc -> megatron the same files."""
    source = InMemory(slots=ADAM, iteration=30)
    scale = {"scale": 8.0, "good": 1, "patience": 2} if dtype else None
    source.meta.extra["optimizer"] = {"name": "adam", "updates": 29, "loss_scale": scale}
    formats.get("mcc")().write(source, tmp_path / "a", WriteOptions(tp=2))
    here = WriteOptions(tp=2, pp=2, dtype=dtype)
    assert convert(tmp_path / "a", tmp_path / "b", "megatron", here).dropped == ()
    assert convert(tmp_path / "b", tmp_path / "c", "mcc").dropped == ()
    a, c = open_checkpoint(tmp_path / "a"), open_checkpoint(tmp_path / "c")
    assert_same_tensors(a, c)
    same_state(a, c)
    for name in ("name", "updates"):
        assert c.meta.extra["optimizer"][name] == source.meta.extra["optimizer"][name]
    convert(tmp_path / "c", tmp_path / "d", "megatron", WriteOptions(tp=2, pp=2))
    files = sorted(file.relative_to(tmp_path / "b") for file in (tmp_path / "b").rglob("*.pt"))
    assert len(files) == 4
    for file in files:
        assert plain(load(tmp_path / "b" / file)) == plain(load(tmp_path / "d" / file)), file


def test_a_dtype_that_is_wider_is_of_the_masters(tmp_path: Path) -> None:
    source = InMemory(slots=ADAM)
    write(tmp_path / "m", source, dtype="float16")
    convert(tmp_path / "m", tmp_path / "wide", "megatron", WriteOptions(dtype="float32"))
    wide = open_checkpoint(tmp_path / "wide")
    assert_same_tensors(wide, source)
    same_state(wide, source)


def step(chunks: list[nn.Module], half: bool) -> dict[str, Any]:
    """What Megatron-LM's optimizer keeps after a step, made by torch's own Adam."""
    groups = groups_of(chunks, "no wd first")
    masters = []
    if half:
        for group in groups:
            group["params"] = [nn.Parameter(param.detach().float()) for param in group["params"]]
            masters.append(group["params"])
            for param in group["params"]:
                param.tensor_model_parallel = True
    adam = torch.optim.AdamW(groups, lr=1e-3)
    for group in adam.param_groups:
        for param in group["params"]:
            param.grad = torch.randn_like(param)
    adam.step()
    inner = adam.state_dict()
    return {"optimizer": inner, "fp32_from_fp16_params": masters} if half else inner


@pytest.mark.parametrize("half", [True, False])
def test_what_adam_on_megatrons_modules_saves(tmp_path: Path, half: bool) -> None:
    """Groups in the other order, masters marked by attributes, steps as tensors of each parameter."""
    torch.manual_seed(0)
    model = stage(SMALL, 1, 4, True, True)
    kept = step([model], half)
    dtype = torch.bfloat16 if half else torch.float32
    flat = {name: param.detach().to(dtype) for name, param in model.named_parameters()}
    args = Namespace(
        num_layers=4, hidden_size=32, num_attention_heads=4, max_position_embeddings=16, vocab_size=301, iteration=1
    )
    (tmp_path / "mp_rank_00").mkdir()
    values = {"args": args, "checkpoint_version": 3.0, "iteration": 1, "model": nest(flat), "optimizer": kept}
    torch.save(values, tmp_path / "mp_rank_00/model_optim_rng.pt")
    source = open_checkpoint(tmp_path)
    assert set(source.slots()) == {*ADAM, *([MASTER] if half else [])}
    assert source.meta.extra["optimizer"]["updates"] == 1
    inner = kept["optimizer"] if half else kept
    position = {id(p): i for i, p in enumerate(p for g in groups_of([model], "no wd first") for p in g["params"])}
    for theirs, ours in [
        ("language_model.embedding.position_embeddings.weight", "embedding.positions.weight"),
        ("language_model.encoder.layers.3.self_attention.query_key_value.bias", "layers.3.attention.qkv.bias"),
        ("language_model.encoder.layers.1.mlp.dense_4h_to_h.weight", "layers.1.mlp.down.weight"),
        ("language_model.encoder.final_layernorm.weight", "final_norm.weight"),
    ]:
        number = position[id(dict(model.named_parameters())[theirs])]
        assert torch.equal(source.read_slot("exp_avg", ours), inner["state"][number]["exp_avg"])
        if half:
            masters = [param for group in kept["fp32_from_fp16_params"] for param in group]
            assert torch.equal(source.read_slot(MASTER, ours), masters[number].detach())


def change(folder: Path, edit: Any) -> None:
    for file in folder.glob("*/mp_rank_*/model_optim_rng.pt"):
        values = torch.load(file, weights_only=False)
        edit(values)
        torch.save(values, file)


def only_groups(values: dict[str, Any]) -> None:
    values["optimizer"] = {"optimizer": {"param_groups": values["optimizer"]["param_groups"]}}


def three_groups(values: dict[str, Any]) -> None:
    values["optimizer"]["param_groups"].append({"params": []})


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (only_groups, "a distributed optimizer's, whose own file is missing"),
        (three_groups, "its groups of parameters are not those of Megatron-LM's pretraining"),
        (lambda values: values["optimizer"]["state"].pop(3), "it is not of all parameters"),
        (lambda values: values.update(optimizer=[{}, {}]), "of a form that is not known"),
    ],
)
def test_state_that_is_not_read_is_told_of(tmp_path: Path, edit: Any, reason: str) -> None:
    source = InMemory(slots=ADAM)
    write(tmp_path, source)
    change(tmp_path, edit)
    back = open_checkpoint(tmp_path)
    assert_same_tensors(back, source)
    assert back.slots() == ()
    assert back.meta.unread == (f"optimizer state ({reason})",)
    with pytest.raises(MccError, match="no optimizer state 'exp_avg'"):
        back.read_slot("exp_avg", "final_norm.weight")


def test_distributed_optimizer_is_told_of(tmp_path: Path) -> None:
    write(tmp_path, InMemory(slots=ADAM))
    (tmp_path / "release/mp_rank_00/distrib_optim.pt").write_bytes(b"")
    back = open_checkpoint(tmp_path)
    assert back.meta.unread == ("optimizer state (a distributed optimizer's, in distrib_optim.pt)",)


def test_state_of_another_order_is_refused(tmp_path: Path) -> None:
    write(tmp_path, InMemory(slots=ADAM))

    def swap(values: dict[str, Any]) -> None:
        state = values["optimizer"]["state"]
        state[0], state[1] = state[1], state[0]

    change(tmp_path, swap)
    with pytest.raises(MccError, match=r"exp_avg of .*word_embeddings.* is \[16, 32\], not \[304, 32\]"):
        open_checkpoint(tmp_path)


def test_wider_weights_in_a_format_without_optimizer_are_of_the_masters(tmp_path: Path) -> None:
    source = InMemory(slots=ADAM)
    write(tmp_path / "m", source, dtype="float16")
    convert(tmp_path / "m", tmp_path / "half", "hf")
    assert {str(dtype) for dtype in open_checkpoint(tmp_path / "half").dtypes().values()} == {"torch.float16"}
    for name in ("hf", "mcc-safetensors"):
        convert(tmp_path / "m", tmp_path / name, name, WriteOptions(dtype="float32"))
        assert_same_tensors(open_checkpoint(tmp_path / name), source)
    model = load_model(tmp_path / "m").model
    assert torch.equal(
        dict(model.named_parameters())["layers.1.mlp.up.weight"], source.values["layers.1.mlp.up.weight"]
    )
