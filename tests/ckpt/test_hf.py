"""Hugging Face folders, against transformers itself."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest
import torch

from mcc.ckpt.format import WriteOptions, formats, open_checkpoint
from mcc.ckpt.load import load_model, logits
from mcc.ckpt.source import Source
from mcc.core.errors import MccError
from tests.ckpt.models import SMALL, InMemory, assert_same_tensors, byte_tokenizer, tokens_for, transformers_gpt2


def write(source: Source, folder: Path, **options: object) -> Path:
    formats.get("hf")().write(source, folder, WriteOptions(**options))  # type: ignore[arg-type]
    return folder


def from_transformers(folder: Path) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()


@torch.no_grad()
def test_transformers_model_computes_the_same_here(tmp_path: Path) -> None:
    model = transformers_gpt2()
    model.save_pretrained(tmp_path / "hf")
    loaded = load_model(tmp_path / "hf")
    tokens = tokens_for(301)
    assert loaded.source_format == "hf"
    assert loaded.model.embedding.tokens.weight.shape[0] == loaded.config.padded_vocab_size() == 384
    assert not loaded.model.embedding.tokens.weight[301:].any()
    expected = model(tokens).logits
    assert logits(loaded, tokens).shape == expected.shape
    torch.testing.assert_close(logits(loaded, tokens), expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_our_model_computes_the_same_in_transformers(tmp_path: Path) -> None:
    source = InMemory(tokenizer=byte_tokenizer(tmp_path / "tokenizer.json"))
    formats.get("mcc-safetensors")().write(source, tmp_path / "ours")
    theirs = from_transformers(write(source, tmp_path / "hf"))
    tokens = tokens_for(301)
    ours = logits(load_model(tmp_path / "ours"), tokens)
    torch.testing.assert_close(theirs(tokens).logits, ours, atol=1e-5, rtol=0)
    assert theirs.config.vocab_size == 301
    assert theirs.config.eos_token_id == 0


def test_round_trip_returns_transformers_own_tensors(tmp_path: Path) -> None:
    model = transformers_gpt2(n_inner=48, layer_norm_epsilon=1e-6)
    model.save_pretrained(tmp_path / "a")
    formats.get("mcc-safetensors")().write(open_checkpoint(tmp_path / "a"), tmp_path / "b")
    formats.get("hf")().write(open_checkpoint(tmp_path / "b"), tmp_path / "c")
    again = from_transformers(tmp_path / "c")
    assert again.config.layer_norm_epsilon == 1e-6
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


@pytest.mark.parametrize("prefix", ["transformer.", ""])
def test_pickled_weights(tmp_path: Path, prefix: str) -> None:
    model = transformers_gpt2()
    model.save_pretrained(tmp_path / "safe")
    model.config.save_pretrained(tmp_path / "bin")
    # The first GPT-2 files have neither the body's prefix nor the head.
    state = {
        name.removeprefix("transformer.") if not prefix else name: tensor
        for name, tensor in model.state_dict().items()
        if prefix or name != "lm_head.weight"
    }
    torch.save(state, tmp_path / "bin" / "pytorch_model.bin")
    assert_same_tensors(open_checkpoint(tmp_path / "bin"), open_checkpoint(tmp_path / "safe"))


def test_pickled_shards(tmp_path: Path) -> None:
    model = transformers_gpt2()
    model.save_pretrained(tmp_path / "safe")
    model.config.save_pretrained(tmp_path / "bin")
    state = model.state_dict()
    placed = {name: f"pytorch_model-0000{1 + i % 2}-of-00002.bin" for i, name in enumerate(state)}
    for file in set(placed.values()):
        torch.save({name: state[name].clone() for name in state if placed[name] == file}, tmp_path / "bin" / file)
    index = {"metadata": {}, "weight_map": placed}
    (tmp_path / "bin" / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert_same_tensors(open_checkpoint(tmp_path / "bin"), open_checkpoint(tmp_path / "safe"))


def test_pickled_files_are_written(tmp_path: Path) -> None:
    source = InMemory()
    write(source, tmp_path / "one", hf_bin=True)
    assert sorted(file.name for file in (tmp_path / "one").iterdir()) == ["config.json", "pytorch_model.bin"]
    assert_same_tensors(open_checkpoint(tmp_path / "one"), source)
    write(source, tmp_path / "hf", hf_bin=True, shard_bytes=50_000)
    shards = sorted(file.name for file in (tmp_path / "hf").glob("*.bin"))
    assert len(shards) > 2 and not list((tmp_path / "hf").glob("*.safetensors*"))
    assert_same_tensors(open_checkpoint(tmp_path / "hf"), source)
    theirs = from_transformers(tmp_path / "hf").state_dict()
    assert torch.equal(theirs["transformer.wte.weight"], source.values["embedding.tokens.weight"])

    index = tmp_path / "hf" / "pytorch_model.bin.index.json"
    whole = index.read_text()
    placed = json.loads(whole)["weight_map"]
    index.write_text(json.dumps({"weight_map": {**placed, "score.weight": shards[0]}}))
    with pytest.raises(MccError, match=rf"{shards[0]} has no tensor score.weight, which .*index.json places there"):
        open_checkpoint(tmp_path / "hf")
    index.write_text(whole)
    last = tmp_path / "hf" / shards[-1]
    os.truncate(last, last.stat().st_size - 100)
    with pytest.raises(MccError, match=rf"{shards[-1]} .*truncated") as refused:
        open_checkpoint(tmp_path / "hf")
    first = next(name for name, file in placed.items() if file == shards[-1])
    assert refused.value.hint == f"tensor {first} is in it; copy it again"


def test_shards_are_what_transformers_reads(tmp_path: Path) -> None:
    source = InMemory()
    write(source, tmp_path / "hf", shard_bytes=50_000)
    shards = sorted(file.name for file in (tmp_path / "hf").glob("*.safetensors"))
    assert len(shards) > 2
    assert_same_tensors(open_checkpoint(tmp_path / "hf"), source)
    theirs = from_transformers(tmp_path / "hf").state_dict()
    assert torch.equal(theirs["transformer.wte.weight"], source.values["embedding.tokens.weight"])

    (tmp_path / "hf" / shards[1]).unlink()
    with pytest.raises(MccError, match=rf"missing shard .*{shards[1]}: tensor transformer\..* is in it"):
        open_checkpoint(tmp_path / "hf")


def test_transformers_shards_are_read(tmp_path: Path) -> None:
    model = transformers_gpt2()
    model.save_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "many", max_shard_size="40KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1
    assert_same_tensors(open_checkpoint(tmp_path / "many"), open_checkpoint(tmp_path / "one"))


def test_tokenizer_loads_in_transformers(tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    file = byte_tokenizer(tmp_path / "tokenizer.json")
    write(InMemory(tokenizer=file), tmp_path / "hf")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "hf", local_files_only=True)
    text = "the cat's hat<|endoftext|>  and Ünïcode\n\ttoo"
    assert theirs(text)["input_ids"] == Tokenizer.from_file(str(file)).encode(text).ids
    assert theirs.decode(theirs(text)["input_ids"]) == text
    assert (theirs.eos_token, theirs.eos_token_id, theirs.model_max_length) == ("<|endoftext|>", 0, 16)


@pytest.mark.parametrize("kind", ["vocab.json", "vocab.txt"])
def test_a_vocabulary_becomes_a_tokenizer(tmp_path: Path, kind: str) -> None:
    """Folders of before tokenizers' JSON, GPT-2's and BERT's, through a format of ours."""
    from transformers import AutoTokenizer

    config = SMALL
    if kind == "vocab.txt":
        config = dataclasses.replace(SMALL, family="bert")
    write(InMemory(config), tmp_path / "hf")
    if kind == "vocab.json":
        model = json.loads(byte_tokenizer(tmp_path / "tokenizer.json").read_text())["model"]
        (tmp_path / "hf" / kind).write_text(json.dumps(model["vocab"]))
        merges = "".join(f"{' '.join(pair)}\n" for pair in model["merges"])
        (tmp_path / "hf" / "merges.txt").write_text(f"#version: 0.2\n{merges}")
    else:
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s", ",", "on"]
        (tmp_path / "hf" / kind).write_text("".join(f"{word}\n" for word in words))
    theirs = AutoTokenizer.from_pretrained(tmp_path / "hf", local_files_only=True)
    source = open_checkpoint(tmp_path / "hf")
    assert source.meta.tokenizer == tmp_path / "hf" / kind
    formats.get("mcc-safetensors")().write(source, tmp_path / "ours")
    write(open_checkpoint(tmp_path / "ours"), tmp_path / "again")
    ours = AutoTokenizer.from_pretrained(tmp_path / "again", local_files_only=True)
    text = "the cats sat, on the other mat"
    assert len(set(theirs(text)["input_ids"])) > 4
    assert ours(text)["input_ids"] == theirs(text)["input_ids"]
    assert (tmp_path / "again" / "tokenizer.json").is_file()
    if kind == "vocab.json":
        (tmp_path / "hf" / kind).write_text("{")
        with pytest.raises(MccError, match=r"vocab\.json is not a tokenizer file"):
            load_model(tmp_path / "hf")


def test_what_a_configuration_says_besides_is_carried_over(tmp_path: Path) -> None:
    model = transformers_gpt2(eos_token_id=7, summary_type="mean")
    model.generation_config.max_new_tokens = 11
    model.save_pretrained(tmp_path / "a")
    values = json.loads((tmp_path / "a" / "config.json").read_text())
    write(open_checkpoint(tmp_path / "a"), tmp_path / "b", dtype="bf16")
    assert json.loads((tmp_path / "b" / "config.json").read_text()) == {**values, "dtype": "bfloat16"}
    generation = (tmp_path / "a" / "generation_config.json").read_text()
    assert json.loads((tmp_path / "b" / "generation_config.json").read_text()) == json.loads(generation)
    # Through a format of ours what is beside the tokenizer is kept.
    byte_tokenizer(tmp_path / "a" / "tokenizer.json")
    formats.get("mcc")().write(open_checkpoint(tmp_path / "a"), tmp_path / "c")
    write(open_checkpoint(tmp_path / "c"), tmp_path / "d")
    assert json.loads((tmp_path / "d" / "config.json").read_text())["eos_token_id"] == 7
    assert (tmp_path / "d" / "generation_config.json").read_text() == generation


def test_quantized_weights_are_refused(tmp_path: Path) -> None:
    write(InMemory(), tmp_path / "hf")
    file = tmp_path / "hf" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization_config": {"quant_method": "fp8"}}))
    with pytest.raises(MccError, match="quantized weights"):
        open_checkpoint(tmp_path / "hf")


def test_tokenizer_files_of_the_source_are_carried_over(tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    file = byte_tokenizer(tmp_path / "from" / "tokenizer.json")
    (tmp_path / "from" / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    write(InMemory(tokenizer=file), tmp_path / "hf")
    assert (tmp_path / "hf" / "tokenizer_config.json").read_text() == '{"tokenizer_class": "GPT2Tokenizer"}'


def test_dtype(tmp_path: Path) -> None:
    source = InMemory()
    write(source, tmp_path / "hf", dtype="bf16")
    name = "layers.1.mlp.up.weight"
    assert torch.equal(open_checkpoint(tmp_path / "hf").read(name), source.values[name].bfloat16())
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["dtype"] == "bfloat16"
    assert load_model(tmp_path / "hf").model.final_norm.weight.dtype == torch.float32
    assert load_model(tmp_path / "hf", torch.bfloat16).model.final_norm.weight.dtype == torch.bfloat16


def test_float16_overflow_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    source = InMemory()
    source.values["layers.2.mlp.up.bias"][3] = 1e6
    with pytest.raises(MccError, match=r"tensor layers\.2\.mlp\.up\.bias: 1e\+06 is beyond float16"):
        write(source, tmp_path / "hf", dtype="float16")
    assert list(tmp_path.iterdir()) == []


def test_truncated_file_names_the_tensor(tmp_path: Path) -> None:
    write(InMemory(), tmp_path / "hf")
    file = tmp_path / "hf" / "model.safetensors"
    os.truncate(file, file.stat().st_size - 10)
    with pytest.raises(MccError, match=r"model\.safetensors is truncated in tensor transformer\."):
        open_checkpoint(tmp_path / "hf")
    os.truncate(file, 100)
    with pytest.raises(MccError, match="truncated in its header"):
        open_checkpoint(tmp_path / "hf")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt3"}, "model_type 'gpt3' is none of mcc's families"),
        ({"n_layer": 5}, r"has no tensor transformer\.h\.4\.ln_1\.weight"),
        ({"n_embd": 64}, "has shape"),
        ({"vocab_size": 300}, r"tensor transformer\.wte\.weight has shape \[301, 32\], not \[300, 32\]"),
        ({"vocab_size": None}, "incomplete or malformed"),
        ({"n_head": 5}, "config.json: num_attention_heads = 5 does not divide"),
        ({"activation_function": "relu"}, "config.json: activation_function = 'relu' is not GPT-2's"),
    ],
)
def test_configuration_that_does_not_fit(tmp_path: Path, change: dict[str, object], message: str) -> None:
    write(InMemory(), tmp_path / "hf")
    file = tmp_path / "hf" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(MccError, match=message):
        open_checkpoint(tmp_path / "hf")


def test_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    file = byte_tokenizer(tmp_path / "tokenizer.json", size=400)
    small = InMemory(SMALL.__class__(**(vars(SMALL) | {"vocab_size": 260})), tokenizer=file)
    with pytest.raises(MccError, match="but the model's vocabulary has 260 tokens"):
        write(small, tmp_path / "hf")
    write(InMemory(), tmp_path / "hf")
    ids = json.loads(file.read_text())
    ids["added_tokens"].append(ids["added_tokens"][0] | {"id": 301, "content": "<extra>"})
    (tmp_path / "hf" / "tokenizer.json").write_text(json.dumps(ids))
    with pytest.raises(MccError, match="token ids up to 301"):
        load_model(tmp_path / "hf")


def test_logits_refuses_what_the_model_cannot_take(tmp_path: Path) -> None:
    loaded = load_model(write(InMemory(), tmp_path / "hf"))
    with pytest.raises(MccError, match="17 tokens for a model of 16 positions"):
        logits(loaded, torch.zeros(1, 17, dtype=torch.long))
    with pytest.raises(MccError, match="not below the vocabulary's 301"):
        logits(loaded, torch.full((1, 2), 301))
