"""Megatron-LM's per-rank files: their form as Megatron-LM expects it, and exact round trips."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
import types
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

from mcc.ckpt.convert import merge, split
from mcc.ckpt.format import WriteOptions, formats, open_checkpoint
from mcc.ckpt.megatron_tree import qkv_from, qkv_to
from mcc.core.errors import MccError, UsageError
from tests.ckpt.models import SMALL, InMemory, assert_same_tensors, byte_tokenizer

LAYOUTS = [(1, 1), (2, 1), (4, 1), (1, 2), (2, 2), (4, 4)]


def write(folder: Path, source: InMemory | None = None, **options: Any) -> Path:
    formats.get("megatron")().write(source or InMemory(), folder, WriteOptions(**options))
    return folder


def load(folder: Path, rank: str) -> dict[str, Any]:
    file = folder / rank / "model_optim_rng.pt"
    return torch.load(file, weights_only=False)  # our own file: as Megatron-LM reads it


@pytest.mark.parametrize(("tp", "pp"), LAYOUTS)
@pytest.mark.parametrize("version", [0, 1, 2, 3])
def test_round_trip(tmp_path: Path, tp: int, pp: int, version: int) -> None:
    source = InMemory(iteration=40)
    back = open_checkpoint(write(tmp_path / "m", source, tp=tp, pp=pp, megatron_version=version))
    assert_same_tensors(back, source)
    assert back.meta.config == SMALL
    assert (back.meta.layout.tp, back.meta.layout.pp, back.meta.iteration) == (tp, pp, 40)
    assert back.meta.padded_vocab_size == SMALL.padded_vocab_size(tp)
    assert back.meta.extra["checkpoint_version"] == version
    assert back.meta.extra["consumed_samples"] == 320


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_split_then_merge_is_the_identity(tmp_path: Path, dtype: torch.dtype) -> None:
    tokenizer = byte_tokenizer(tmp_path / "tokenizer.json")
    source = InMemory(dtype=dtype, iteration=7, tokenizer=tokenizer)
    formats.get("mcc-safetensors")().write(source, tmp_path / "a")
    split(tmp_path / "a", tmp_path / "m", tp=2, pp=2, options=WriteOptions(megatron_version=1))
    merge(tmp_path / "m", tmp_path / "b")
    for name in ("model.safetensors", "mcc.json", "tokenizer.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_qkv_order_of_each_version() -> None:
    # Two heads of two channels; a row is named by its part, head and channel.
    ours = ["q00", "q01", "k00", "k01", "v00", "v01", "q10", "q11", "k10", "k11", "v10", "v11"]
    by_version = {
        0: ["q00", "q01", "q10", "q11", "k00", "k01", "k10", "k11", "v00", "v01", "v10", "v11"],  # [3, np, hn]
        1: ["q00", "k00", "v00", "q01", "k01", "v01", "q10", "k10", "v10", "q11", "k11", "v11"],  # [np, hn, 3]
        2: ours,
        3: ours,
    }
    rows = torch.arange(12)
    for version, names in by_version.items():
        order = torch.tensor([ours.index(name) for name in names])
        assert qkv_to(rows, version, head_dim=2).tolist() == order.tolist(), version
        assert qkv_from(order, version, head_dim=2).tolist() == rows.tolist(), version
        matrix = torch.randn(12, 5)
        assert torch.equal(qkv_from(qkv_to(matrix, version, 2), version, 2), matrix)


def test_files_are_what_megatron_reads(tmp_path: Path) -> None:
    source = InMemory(iteration=1200)
    write(tmp_path, source, tp=2, pp=2)
    assert (tmp_path / "latest_checkpointed_iteration.txt").read_text().strip() == "1200"
    root = tmp_path / "iter_0001200"
    assert sorted(folder.name for folder in root.iterdir()) == [
        *("mp_rank_00_000", "mp_rank_00_001", "mp_rank_01_000", "mp_rank_01_001")
    ]
    first, last = load(root, "mp_rank_01_000"), load(root, "mp_rank_01_001")
    assert (first["checkpoint_version"], first["iteration"]) == (3.0, 1200)
    args = first["args"]
    assert isinstance(args, Namespace)
    assert (args.num_layers, args.hidden_size, args.num_attention_heads) == (4, 32, 4)
    assert (args.max_position_embeddings, args.ffn_hidden_size, args.padded_vocab_size) == (16, 128, 304)
    assert (args.tensor_model_parallel_size, args.pipeline_model_parallel_size) == (2, 2)
    assert args.params_dtype == torch.float32

    embedding = first["model"]["language_model"]["embedding"]
    words = source.values["embedding.tokens.weight"]
    expected = torch.cat([words[152:], torch.zeros(3, 32)])  # rows 152..303 of 301, padded
    assert torch.equal(embedding["word_embeddings"]["weight"], expected)
    assert torch.equal(embedding["position_embeddings"]["weight"], source.values["embedding.positions.weight"])
    assert "word_embeddings_for_head" not in first["model"]
    assert torch.equal(last["model"]["word_embeddings_for_head"]["weight"], expected)
    assert "embedding" not in last["model"]["language_model"]

    encoder = last["model"]["language_model"]["encoder"]  # layers count from 0 in every stage
    ours = "layers.2"
    for theirs, name, rows, columns in [
        ("layers.0.self_attention.query_key_value.weight", f"{ours}.attention.qkv.weight", (48, 96), (0, 32)),
        ("layers.0.self_attention.dense.weight", f"{ours}.attention.out.weight", (0, 32), (16, 32)),
        ("layers.0.mlp.dense_h_to_4h.weight", f"{ours}.mlp.up.weight", (64, 128), (0, 32)),
        ("layers.0.mlp.dense_4h_to_h.weight", f"{ours}.mlp.down.weight", (0, 32), (64, 128)),
    ]:
        assert torch.equal(encoder[theirs], source.values[name][slice(*rows), slice(*columns)]), theirs
    assert torch.equal(encoder["layers.1.input_layernorm.bias"], source.values["layers.3.norm1.bias"])
    assert torch.equal(encoder["final_layernorm.weight"], source.values["final_norm.weight"])
    assert "final_layernorm.weight" not in first["model"]["language_model"]["encoder"]


def test_release_and_single_stage(tmp_path: Path) -> None:
    write(tmp_path)
    assert (tmp_path / "latest_checkpointed_iteration.txt").read_text().strip() == "release"
    model = load(tmp_path / "release", "mp_rank_00")["model"]
    assert list(model) == ["language_model"]  # tied within the stage: no copy for the head
    assert_same_tensors(open_checkpoint(tmp_path / "release"), InMemory())


@pytest.mark.parametrize(("tp", "rows"), [(1, 304), (2, 304), (4, 320)])
def test_padding_for_every_tp(tmp_path: Path, tp: int, rows: int) -> None:
    """301 tokens up to a multiple of 8 x TP; the rows that are no tokens are zeros, and gone when it is read."""
    model = InMemory()
    write(tmp_path, model, tp=tp)
    trees = [load(tmp_path / "release", f"mp_rank_{rank:02d}")["model"] for rank in range(tp)]
    parts = [tree["language_model"]["embedding"]["word_embeddings"]["weight"] for tree in trees]
    assert [len(part) for part in parts] == [rows // tp] * tp
    whole = torch.cat(parts)
    assert torch.equal(whole[:301], model.read("embedding.tokens.weight"))
    assert not whole[301:].any()


def test_each_file_holds_its_shard_only(tmp_path: Path) -> None:
    """A view would drag its whole storage into the file."""
    write(tmp_path / "one")
    write(tmp_path / "four", tp=4)
    one = (tmp_path / "one/release/mp_rank_00/model_optim_rng.pt").stat().st_size
    four = (tmp_path / "four/release/mp_rank_00/model_optim_rng.pt").stat().st_size
    assert four < 0.45 * one


@pytest.mark.parametrize(("tp", "pp", "vpp"), [(1, 2, 2), (2, 2, 4), (1, 4, 2)])
def test_virtual_stages(tmp_path: Path, tp: int, pp: int, vpp: int) -> None:
    source = InMemory(dataclasses.replace(SMALL, num_layers=8))
    back = open_checkpoint(write(tmp_path, source, tp=tp, pp=pp, vpp=vpp))
    assert_same_tensors(back, source)
    assert (back.meta.layout.tp, back.meta.layout.pp, back.meta.layout.vpp) == (tp, pp, vpp)


def test_virtual_stages_interleave_as_megatron_does(tmp_path: Path) -> None:
    """8 layers, 2 stages of 2 chunks: stage 0 has layers 0, 1 and 4, 5; stage 1 has 2, 3 and 6, 7."""
    source = InMemory(dataclasses.replace(SMALL, num_layers=8))
    write(tmp_path, source, pp=2, vpp=2)
    held = {
        ("mp_rank_00_000", "model0"): (0, 1),
        ("mp_rank_00_000", "model1"): (4, 5),
        ("mp_rank_00_001", "model0"): (2, 3),
        ("mp_rank_00_001", "model1"): (6, 7),
    }
    for (rank, key), layers in held.items():
        values = load(tmp_path / "release", rank)
        assert sorted(key for key in values if key.startswith("model")) == ["model0", "model1"]
        assert values["args"].virtual_pipeline_model_parallel_size == 2
        language = values[key]["language_model"]
        for local, layer in enumerate(layers):
            theirs = language["encoder"][f"layers.{local}.mlp.dense_4h_to_h.bias"]
            assert torch.equal(theirs, source.values[f"layers.{layer}.mlp.down.bias"])
        first, last = (rank, key) == ("mp_rank_00_000", "model0"), (rank, key) == ("mp_rank_00_001", "model1")
        assert ("embedding" in language) == first
        assert ("final_layernorm.weight" in language["encoder"]) == last
        assert ("word_embeddings_for_head" in values[key]) == last


def test_a_stage_without_one_of_its_chunks(tmp_path: Path) -> None:
    write(tmp_path, pp=2, vpp=2)
    file = tmp_path / "release/mp_rank_00_001/model_optim_rng.pt"
    values = torch.load(file, weights_only=False)
    del values["model1"]
    torch.save(values, file)
    with pytest.raises(MccError, match=r"mp_rank_00_001/model_optim_rng\.pt has 1 model chunks, and .* has 2"):
        open_checkpoint(tmp_path)


def rewrite(folder: Path, change: Any) -> None:
    for file in folder.glob("*/mp_rank_*/model_optim_rng.pt"):
        values = torch.load(file, weights_only=False)
        change(values)
        torch.save(values, file)


def test_older_names_and_missing_version(tmp_path: Path) -> None:
    source = InMemory()
    write(tmp_path, source, tp=2, megatron_version=0)

    def age(values: dict[str, Any]) -> None:
        language = values["model"]["language_model"]
        encoder = language.pop("encoder")
        language["transformer"] = {key.replace("self_attention", "attention"): t for key, t in encoder.items()}
        embedding = language.pop("embedding")
        language["embedding"] = {f"{name}.weight": level["weight"] for name, level in embedding.items()}
        del values["checkpoint_version"]
        values["total_iters"] = values.pop("iteration") + 30

    rewrite(tmp_path, age)
    back = open_checkpoint(tmp_path)
    assert_same_tensors(back, source)
    assert (back.meta.extra["checkpoint_version"], back.meta.iteration) == (0.0, 30)


def test_uneven_stages(tmp_path: Path) -> None:
    source = InMemory()
    write(tmp_path, source, pp=2)
    a, b = (tmp_path / f"release/mp_rank_00_00{stage}/model_optim_rng.pt" for stage in (0, 1))
    first, last = torch.load(a, weights_only=False), torch.load(b, weights_only=False)
    left, right = (values["model"]["language_model"]["encoder"] for values in (first, last))
    for key in [key for key in right if key.startswith("layers.0.")]:
        left[key.replace("layers.0.", "layers.2.")] = right.pop(key)
    for key in [key for key in right if key.startswith("layers.1.")]:
        right[key.replace("layers.1.", "layers.0.")] = right.pop(key)
    torch.save(first, a)
    torch.save(last, b)
    assert_same_tensors(open_checkpoint(tmp_path), source)


@pytest.mark.parametrize("told", ["args", "tokenizer", "nothing"])
def test_true_vocabulary(tmp_path: Path, told: str) -> None:
    write(tmp_path, tp=2)
    if told != "args":
        rewrite(tmp_path, lambda values: delattr(values["args"], "vocab_size"))
    expected = 301
    if told == "tokenizer":
        byte_tokenizer(tmp_path / "tokenizer.json", size=270)
        expected = 270
    elif told == "nothing":
        expected = 304
    source = open_checkpoint(tmp_path)
    assert source.meta.config.vocab_size == expected == source.read("embedding.tokens.weight").shape[0]


def test_foreign_classes_are_inert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of real runs mention an enum and a loss scaler of Megatron-LM, and numpy's random state."""
    import enum

    import numpy

    module = types.ModuleType("megatron.model.enums")

    class ModelType(enum.Enum):
        encoder_or_decoder = 1

    class Scaler:
        def __init__(self) -> None:
            self.scale = 3.0

    for cls in (ModelType, Scaler):
        cls.__module__, cls.__qualname__ = "megatron.model.enums", cls.__name__
        setattr(module, cls.__name__, cls)
    write(tmp_path)
    for name in ("megatron", "megatron.model", "megatron.model.enums"):
        monkeypatch.setitem(sys.modules, name, module)

    def add(values: dict[str, Any]) -> None:
        values["args"].model_type = ModelType.encoder_or_decoder
        values["optimizer"] = {"grad_scaler": Scaler()}
        values["rng_state"] = [{"np_rng_state": numpy.random.get_state(), "random_rng_state": (3, (1, 2), None)}]

    rewrite(tmp_path, add)
    for name in ("megatron", "megatron.model", "megatron.model.enums"):
        monkeypatch.delitem(sys.modules, name)
    source = open_checkpoint(tmp_path)
    assert_same_tensors(source, InMemory())
    assert "megatron" not in sys.modules
    assert source.meta.unread == ("optimizer state (of a form that is not known)",)
    assert formats.get("hf")().write(source, tmp_path / "hf").dropped == source.meta.unread


def test_refused_layouts(tmp_path: Path) -> None:
    for options, message in [
        ({"tp": 3}, "tp = 3 does not divide num_attention_heads = 4"),
        ({"pp": 3}, "pp = 3 does not divide num_layers = 4"),
        ({"pp": 8}, "pp = 8 is more than num_layers = 4"),
        ({"megatron_version": 4}, "unknown Megatron checkpoint version 4"),
        ({"tp": 0}, "tp = 0"),
        ({"vpp": 2}, "vpp = 2 interleaves pipeline stages"),
        ({"pp": 2, "vpp": 4}, "pp = 2 times vpp = 4 is more than num_layers = 4"),
        ({"pp": 2, "vpp": 0}, "vpp = 0"),
    ]:
        with pytest.raises(UsageError, match=message):
            write(tmp_path / "m", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("gone", ["mp_rank_00_000", "mp_rank_01_000", "mp_rank_00_001", "mp_rank_01_001"])
def test_missing_shard(tmp_path: Path, gone: str) -> None:
    write(tmp_path, tp=2, pp=2)
    shutil.rmtree(tmp_path / "release" / gone)
    with pytest.raises(MccError, match=f"missing shard .*{gone}/model_optim_rng.pt: rank .* of TP 2"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("part", [0.0, 0.3, 0.98])
def test_truncated_shard(tmp_path: Path, part: float) -> None:
    write(tmp_path, tp=2)
    file = tmp_path / "release/mp_rank_01/model_optim_rng.pt"
    os.truncate(file, int(file.stat().st_size * part))
    with pytest.raises(MccError, match=r"mp_rank_01/model_optim_rng\.pt.*truncated"):
        open_checkpoint(tmp_path)


def drop(*path: str) -> Any:
    def change(values: dict[str, Any]) -> None:
        for part in path[:-1]:
            values = values[part]
        del values[path[-1]]

    return change


def put(name: str, value: object) -> Any:
    return lambda values: setattr(values["args"], name, value)


ENCODER = ("model", "language_model", "encoder")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("model"), "has no model"),
        (drop("args"), "has no arguments"),
        (drop(*ENCODER, "layers.2.mlp.dense_h_to_4h.bias"), r"has no tensor .*layers\.2\.mlp\.dense_h_to_4h\.bias"),
        (drop("model", "language_model", "embedding", "word_embeddings"), "has no tensor .*word_embeddings"),
        (put("num_layers", 5), "num_layers = 5, but the stages hold 4 layers"),
        (put("hidden_size", 64), "has shape"),
        (put("num_attention_heads", 5), r"query_key_value\.weight has shape \[96, 32\], not \[120, 32\]"),
        (put("swiglu", True), "swiglu = True is another architecture"),
        (lambda values: delattr(values["args"], "hidden_size"), "the arguments lack hidden_size"),
        (lambda values: values.update(model1=values.pop("model")), "has no model"),
        (
            lambda values: values["model"].update(lm_head={"bias": torch.zeros(3)}),
            r"tensor lm_head\.bias belongs to no family",
        ),
    ],
)
def test_files_that_do_not_fit(tmp_path: Path, change: Any, message: str) -> None:
    write(tmp_path)
    rewrite(tmp_path, change)
    with pytest.raises(MccError, match=message):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(("text", "message"), [("5", "iter_0000005, which is not there"), ("../x", "neither")])
def test_tracker_that_leads_nowhere(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path)
    (tmp_path / "latest_checkpointed_iteration.txt").write_text(text)
    with pytest.raises(MccError, match=message):
        open_checkpoint(tmp_path)
