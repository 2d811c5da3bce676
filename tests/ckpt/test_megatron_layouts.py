"""Megatron-LM's files as the facts about them are written down, spelled out here by hand and not by our code."""

from __future__ import annotations

import dataclasses
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mcc.ckpt.format import WriteOptions, formats, open_checkpoint
from mcc.core.errors import MccError
from mcc.models.base.config import ModelConfig
from tests.ckpt.models import SMALL, InMemory, assert_same_tensors

BERT = ModelConfig(
    family="megatron-bert", head="pretraining", num_layers=4, hidden_size=32, num_attention_heads=4, seq_length=16,
    vocab_size=301, make_vocab_size_divisible_by=8,
)  # fmt: skip


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Tensors by path; a slash for a dictionary, dots as the keys have them."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value


def layer(number: int) -> dict[str, list[int]]:
    """A layer of hidden size 32 and 4 heads on one of two tensor-parallel ranks."""
    shapes = {
        "input_layernorm.weight": [32],
        "input_layernorm.bias": [32],
        "self_attention.query_key_value.weight": [48, 32],  # dim 0
        "self_attention.query_key_value.bias": [48],
        "self_attention.dense.weight": [32, 16],  # dim 1
        "self_attention.dense.bias": [32],
        "post_attention_layernorm.weight": [32],
        "post_attention_layernorm.bias": [32],
        "mlp.dense_h_to_4h.weight": [64, 32],  # dim 0
        "mlp.dense_h_to_4h.bias": [64],
        "mlp.dense_4h_to_h.weight": [32, 64],  # dim 1
        "mlp.dense_4h_to_h.bias": [32],
    }
    return {f"language_model/encoder/layers.{number}.{key}": shape for key, shape in shapes.items()}


FIRST = {
    "language_model/embedding/word_embeddings/weight": [152, 32],  # 301 tokens, padded to 304 = 8 * 2 * 19, halved
    "language_model/embedding/position_embeddings/weight": [16, 32],
    "language_model/embedding/tokentype_embeddings/weight": [2, 32],
    **layer(0),
    **layer(1),
}
LAST = {
    **layer(0),  # counted within the stage
    **layer(1),
    "language_model/encoder/final_layernorm.weight": [32],
    "language_model/encoder/final_layernorm.bias": [32],
    "language_model/pooler/dense.weight": [32, 32],
    "language_model/pooler/dense.bias": [32],
    "lm_head/dense.weight": [32, 32],
    "lm_head/dense.bias": [32],
    "lm_head/layernorm.weight": [32],
    "lm_head/layernorm.bias": [32],
    "lm_head/bias": [152],
    "binary_head/weight": [2, 32],
    "binary_head/bias": [2],
    "word_embeddings_for_head/weight": [152, 32],
}


@pytest.mark.parametrize(("iteration", "folder"), [(0, "release"), (700, "iter_0000700")])
def test_the_reference_pages_view_of_our_files(tmp_path: Path, iteration: int, folder: str) -> None:
    source = InMemory(BERT, dtype=torch.float16, iteration=iteration)
    formats.get("megatron")().write(source, tmp_path, WriteOptions(tp=2, pp=2, megatron_version=3))
    tracker = (tmp_path / "latest_checkpointed_iteration.txt").read_text()
    assert tracker.strip() == ("700" if iteration else "release")
    files = sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.pt"))
    assert files == [f"{folder}/mp_rank_{t:02d}_{p:03d}/model_optim_rng.pt" for t in range(2) for p in range(2)]
    for tensor_rank in range(2):
        for stage, shapes in enumerate((FIRST, LAST)):
            file = tmp_path / folder / f"mp_rank_{tensor_rank:02d}_{stage:03d}" / "model_optim_rng.pt"
            values = torch.load(file, weights_only=False)
            assert set(values) == {"args", "checkpoint_version", "iteration", "model"}
            assert (values["checkpoint_version"], values["iteration"]) == (3.0, iteration)
            held = dict(leaves(values["model"]))
            assert {key: list(tensor.shape) for key, tensor in held.items()} == shapes
            assert {tensor.dtype for tensor in held.values()} == {torch.float16}
            assert isinstance(values["args"], Namespace)
            expected = {
                "num_layers": 4, "hidden_size": 32, "ffn_hidden_size": 128, "num_attention_heads": 4,
                "kv_channels": 8, "max_position_embeddings": 16, "seq_length": 16, "padded_vocab_size": 304,
                "make_vocab_size_divisible_by": 8, "tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 2,
                "virtual_pipeline_model_parallel_size": None, "tokenizer_type": "BertWordPieceLowerCase",
                "bert_binary_head": True, "fp16": True, "bf16": False, "params_dtype": torch.float16,
                "iteration": iteration, "consumed_train_samples": iteration * 8,
            }  # fmt: skip
            assert {name: getattr(values["args"], name, "missing") for name in expected} == expected


def empty(*shape: int) -> Tensor:
    """Numbers all alike, which take no room."""
    return torch.full((1,), 0.25, dtype=torch.float16).expand(shape)


def released(bert: bool, rows: int) -> dict[str, Any]:
    """A model as NVIDIA released it: 24 layers, hidden size 1024, no arguments, names of before 2021."""
    layers: dict[str, Tensor] = {}
    for i in range(24):
        for key, shape in {
            "input_layernorm.weight": [1024],
            "input_layernorm.bias": [1024],
            "attention.query_key_value.weight": [3072, 1024],
            "attention.query_key_value.bias": [3072],
            "attention.dense.weight": [1024, 1024],
            "attention.dense.bias": [1024],
            "post_attention_layernorm.weight": [1024],
            "post_attention_layernorm.bias": [1024],
            "mlp.dense_h_to_4h.weight": [4096, 1024],
            "mlp.dense_h_to_4h.bias": [4096],
            "mlp.dense_4h_to_h.weight": [1024, 4096],
            "mlp.dense_4h_to_h.bias": [1024],
        }.items():
            layers[f"layers.{i}.{key}"] = empty(*shape)
    layers |= {f"final_layernorm.{leaf}": empty(1024) for leaf in ("weight", "bias")}
    embedding = {
        "word_embeddings": {"weight": empty(rows, 1024)},
        "position_embeddings": {"weight": empty(512 if bert else 1024, 1024)},
    }
    model: dict[str, Any] = {"language_model": {"embedding": embedding, "transformer": layers}}
    if bert:
        embedding["tokentype_embeddings"] = {"weight": empty(2, 1024)}
        model["language_model"]["pooler"] = {"dense.weight": empty(1024, 1024), "dense.bias": empty(1024)}
        model["lm_head"] = {"dense.weight": empty(1024, 1024), "dense.bias": empty(1024), "bias": empty(rows)}
        model["lm_head"] |= {"layernorm.weight": empty(1024), "layernorm.bias": empty(1024)}
        model["binary_head"] = {"weight": empty(2, 1024), "bias": empty(2)}
    return {"model": model, "iteration": 0} | ({"config": {"anything": 1}} if bert else {})


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize(
    ("family", "rows", "vocabulary"),
    [("gpt2", 50304, 50257), ("megatron-bert", 30592, 30522), ("megatron-bert", 29056, 28996)],
)
def test_nvidias_released_models(tmp_path: Path, family: str, rows: int, vocabulary: int, zipped: bool) -> None:
    bert = family == "megatron-bert"
    file = tmp_path / "release/mp_rank_00/model_optim_rng.pt"
    file.parent.mkdir(parents=True)
    torch.save(released(bert, rows), file, _use_new_zipfile_serialization=zipped)
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("release\n")
    source = open_checkpoint(tmp_path)
    config = source.meta.config
    assert (config.family, config.head) == (family, "pretraining" if bert else "lm")
    assert (config.num_layers, config.hidden_size, config.num_attention_heads, config.ffn_size) == (24, 1024, 16, 4096)
    assert (config.positions, config.vocab_size) == (512 if bert else 1024, vocabulary)
    assert (source.meta.padded_vocab_size, source.meta.extra["checkpoint_version"]) == (rows, 0.0)
    assert set(source.dtypes().values()) == {torch.float16}
    assert source.read("layers.23.attention.qkv.bias").tolist() == [0.25] * 3072
    assert source.read("layers.3.norm2.bias").shape == (1024,)


def test_another_model_without_arguments(tmp_path: Path) -> None:
    """Its heads cannot be told from its tensors."""
    file = tmp_path / "release/mp_rank_00/model_optim_rng.pt"
    file.parent.mkdir(parents=True)
    torch.save(released(False, 50432), file)
    with pytest.raises(MccError, match=r"model_optim_rng\.pt has no arguments \(args\)"):
        open_checkpoint(tmp_path / "release")


def rewrite(folder: Path, change: Any) -> None:
    for file in folder.glob("*/mp_rank_*/model_optim_rng.pt"):
        values = torch.load(file, weights_only=False)
        change(values)
        torch.save(values, file)


def test_arguments_of_before_pipelines(tmp_path: Path) -> None:
    """`model_parallel_size`, and no size of a pipeline: a missing last rank is still noticed."""
    source = InMemory()
    formats.get("megatron")().write(source, tmp_path, WriteOptions(tp=2, megatron_version=0))

    def age(values: dict[str, Any]) -> None:
        args = vars(values["args"])
        args["model_parallel_size"] = args.pop("tensor_model_parallel_size")
        for name in ("pipeline_model_parallel_size", "num_query_groups", "group_query_attention", "norm_epsilon"):
            del args[name]

    rewrite(tmp_path, age)
    assert_same_tensors(open_checkpoint(tmp_path), source)
    (tmp_path / "release/mp_rank_01/model_optim_rng.pt").unlink()
    with pytest.raises(MccError, match=r"missing shard .*mp_rank_01/model_optim_rng\.pt: rank 1 of TP 2"):
        open_checkpoint(tmp_path)


def test_every_stage_with_embedding_and_heads(tmp_path: Path) -> None:
    """MCBench's splitter gives every stage the embedding, the pooler and the heads, and no copy for the head."""
    source = InMemory(BERT)
    formats.get("megatron")().write(source, tmp_path, WriteOptions(tp=2, pp=2))
    for rank in range(2):
        files = [tmp_path / f"release/mp_rank_{rank:02d}_{stage:03d}/model_optim_rng.pt" for stage in range(2)]
        first, last = (torch.load(file, weights_only=False) for file in files)
        del last["model"]["word_embeddings_for_head"]
        last["model"]["language_model"]["embedding"] = first["model"]["language_model"]["embedding"]
        for key in ("lm_head", "binary_head"):
            first["model"][key] = last["model"][key]
        first["model"]["language_model"]["pooler"] = last["model"]["language_model"]["pooler"]
        for values, file in zip((first, last), files, strict=True):
            torch.save(values, file)
    assert_same_tensors(open_checkpoint(tmp_path), source)


def test_uneven_chunks_are_read_in_the_schedules_order(tmp_path: Path) -> None:
    """7 layers over 2 stages of 2 chunks: [0, 1] [4, 5] and [2, 3] [6]."""
    source = InMemory(dataclasses.replace(SMALL, num_layers=8))
    formats.get("megatron")().write(source, tmp_path, WriteOptions(pp=2, vpp=2))

    def cut(values: dict[str, Any]) -> None:
        values["args"].num_layers = 7
        encoder = values["model1"]["language_model"]["encoder"]
        if "final_layernorm.weight" in encoder:
            for key in [key for key in encoder if key.startswith("layers.1.")]:
                del encoder[key]

    rewrite(tmp_path, cut)
    back = open_checkpoint(tmp_path)
    assert back.meta.config.num_layers == 7
    for name, tensor in source.values.items():
        if not name.startswith("layers.7."):
            assert torch.equal(back.read(name), tensor), name
