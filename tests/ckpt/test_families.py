"""Every family through every format, bit for bit, and as transformers' own folders."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mcc.ckpt.convert import convert, split
from mcc.ckpt.format import WriteOptions, formats, open_checkpoint
from mcc.ckpt.summary import inspect
from mcc.ckpt.verify import verify
from mcc.core.errors import MccError, UsageError
from mcc.models.base.config import ModelConfig
from mcc.models.base.family import families
from tests.ckpt.models import SMALL, InMemory, assert_same_tensors


def of(family: str, **values: Any) -> ModelConfig:
    return dataclasses.replace(SMALL, family=family, **values)


MODELS = {
    "gpt2, untied": of("gpt2", untie_embeddings_and_output_weights=True),
    "llama": of("llama", ffn_hidden_size=48),
    "llama, groups, untied": of("llama", num_query_groups=2, untie_embeddings_and_output_weights=True, kv_channels=6),
    "mistral": of("mistral", sliding_window=16, num_query_groups=2),
    "qwen2": of("qwen2", num_query_groups=2, untie_embeddings_and_output_weights=True),
    "opt": of("opt"),
    "gpt-neox": of("gpt-neox", rotary_percent=0.25, untie_embeddings_and_output_weights=True),
    **{
        f"{family}, {head}": of(
            family,
            head=head,
            num_labels=3 if head == "classification" else 2,
            num_tokentypes=1 if family == "roberta" else 2,
        )
        for family in ("bert", "megatron-bert", "roberta")
        for head in families.get(family).blueprint.heads
    },
}
MEGATRON = [
    name
    for name, config in MODELS.items()
    if all(row.megatron for _, row, _ in families.get(config.family)().table(config))
]


def write(source: InMemory, folder: Path, to: str, **options: Any) -> Path:
    formats.get(to)().write(source, folder, WriteOptions(**options))
    return folder


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("to", ["hf", "mcc", "mcc-safetensors"])
def test_round_trip(tmp_path: Path, name: str, to: str) -> None:
    source = InMemory(MODELS[name])
    back = open_checkpoint(write(source, tmp_path / "x", to))
    assert_same_tensors(back, source)
    # Of the padding a Hugging Face folder says nothing.
    assert dataclasses.replace(back.meta.config, make_vocab_size_divisible_by=8) == MODELS[name]


@pytest.mark.parametrize("name", MEGATRON)
@pytest.mark.parametrize(("tp", "pp"), [(1, 1), (2, 1), (2, 2), (1, 4)])
def test_megatron_round_trip(tmp_path: Path, name: str, tp: int, pp: int) -> None:
    source = InMemory(MODELS[name])
    back = open_checkpoint(write(source, tmp_path / "m", "megatron", tp=tp, pp=pp))
    assert back.meta.config == MODELS[name]
    assert_same_tensors(back, source)


@pytest.mark.parametrize("name", MODELS)
def test_transformers_computes_the_same(tmp_path: Path, name: str) -> None:
    """Our folder, read by both; then transformers' own, which comes back with the same bytes."""
    import transformers

    config = MODELS[name]
    write(InMemory(config), tmp_path / "ours", "hf")
    report = verify(tmp_path / "ours")
    assert report.passed, report.max_abs_diff
    assert (report.losses is None) == (config.head not in ("lm", "pretraining"))
    theirs = getattr(transformers, families.get(config.family).hf_classes[config.head])
    theirs.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    assert_same_tensors(open_checkpoint(tmp_path / "theirs"), InMemory(config))
    convert(tmp_path / "theirs", tmp_path / "mcc", "mcc", WriteOptions(tp=2, pp=2))
    convert(tmp_path / "mcc", tmp_path / "again", "hf")
    models = [theirs.from_pretrained(tmp_path / which) for which in ("theirs", "again")]
    told = [{k: v for k, v in model.config.to_dict().items() if k != "_name_or_path"} for model in models]
    assert told[0] == told[1]
    a, b = (model.state_dict() for model in models)
    assert a.keys() == b.keys()
    assert all(torch.equal(tensor, b[key]) for key, tensor in a.items())


def test_berts_tokenizer_loads_in_transformers(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import AutoTokenizer

    words = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "the": 5, "cat": 6}
    tokenizer = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(list(words)[:5])
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    source = InMemory(MODELS["bert, lm"], tokenizer=tmp_path / "tokenizer.json")
    write(source, tmp_path / "hf", "hf")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "hf", local_files_only=True)
    found = theirs("the cat", "the [MASK]")
    assert found["input_ids"] == [2, 5, 6, 3, 5, 4, 3]
    assert found["token_type_ids"] == [0, 0, 0, 0, 1, 1, 1]
    assert (theirs.cls_token, theirs.pad_token_id, theirs.mask_token_id) == ("[CLS]", 0, 4)
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["pad_token_id"] == 0


def test_norms_in_tensorflows_spelling(tmp_path: Path) -> None:
    """The first BERT's files: gamma and beta, and no prefix before the body."""
    from safetensors.torch import load_file, save_file

    source = InMemory(MODELS["bert, pooler"])
    write(source, tmp_path, "hf")
    old = {}
    for name, tensor in load_file(tmp_path / "model.safetensors").items():
        if "LayerNorm" in name:
            name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        old[name.removeprefix("bert.")] = tensor
    save_file(old, tmp_path / "model.safetensors")
    assert_same_tensors(open_checkpoint(tmp_path), source)


def test_the_first_berts_files_have_more_heads_than_they_say(tmp_path: Path) -> None:
    """bert-base-uncased calls itself BertForMaskedLM, and has the pooler that fine-tuning starts from."""
    source = InMemory(MODELS["bert, pretraining"])
    write(source, tmp_path, "hf")
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"architectures": ["BertForMaskedLM"]}))
    assert_same_tensors(open_checkpoint(tmp_path), source)
    assert open_checkpoint(tmp_path).meta.unread == ()


def test_tensors_without_a_place_are_told_of(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    write(InMemory(), tmp_path / "a", "hf")
    tensors = load_file(tmp_path / "a" / "model.safetensors")
    copies = {"lm_head.weight": tensors["transformer.wte.weight"].clone(), "transformer.h.0.attn.bias": torch.ones(2)}
    save_file(tensors | copies, tmp_path / "a" / "model.safetensors")
    assert open_checkpoint(tmp_path / "a").meta.unread == ()
    save_file(tensors | copies | {"score.weight": torch.ones(2)}, tmp_path / "a" / "model.safetensors")
    done = convert(tmp_path / "a", tmp_path / "b", "mcc")
    assert done.dropped == ("what no model here has: score.weight",)


def test_tensors_that_are_several_there_are_checked_one_by_one(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    write(InMemory(MODELS["llama, groups, untied"]), tmp_path, "hf")
    tensors = load_file(tmp_path / "model.safetensors")
    key = "model.layers.2.self_attn.k_proj.weight"
    save_file(tensors | {key: tensors[key][:6].clone()}, tmp_path / "model.safetensors")
    with pytest.raises(MccError, match=r"k_proj\.weight has shape \[6, 32\], not \[12, 32\]"):
        open_checkpoint(tmp_path)
    save_file({k: v for k, v in tensors.items() if k != key}, tmp_path / "model.safetensors")
    with pytest.raises(MccError, match=r"has no tensor model\.layers\.2\.self_attn\.k_proj\.weight"):
        open_checkpoint(tmp_path)


def test_rope_of_both_versions_of_transformers(tmp_path: Path) -> None:
    config = of("llama", rotary_base=5e5, rope_scaling_factor=32.0, rope_original_positions=64)
    write(InMemory(config), tmp_path, "hf")
    file = tmp_path / "config.json"
    values = json.loads(file.read_text())
    assert values["rope_theta"] == 5e5
    new = {key: value for key, value in values.items() if key not in ("rope_theta", "rope_scaling")}
    new["rope_parameters"] = {**values["rope_scaling"], "rope_theta": 5e5}
    file.write_text(json.dumps(new))
    read = open_checkpoint(tmp_path).meta.config
    assert (read.rotary_base, read.rope_scaling_factor, read.rope_original_positions) == (5e5, 32.0, 64)


def test_what_megatron_does_not_have_is_refused(tmp_path: Path) -> None:
    for source, options, message in [
        (InMemory(MODELS["opt"]), {}, "Megatron-LM has no model like family opt"),
        (InMemory(of("mistral", sliding_window=8)), {}, "no sliding window: 8 tokens of 16"),
        (InMemory(MODELS["llama, groups, untied"]), {"megatron_version": 1}, "has no shared key/value heads"),
        (InMemory(of("llama", rope_scaling_factor=8.0, rope_low_freq_factor=2.0)), {}, "rotary scaling with"),
        (InMemory(MODELS["llama, groups, untied"]), {"tp": 4}, "but not num_query_groups = 2"),
    ]:
        with pytest.raises(UsageError, match=message):
            write(source, tmp_path / "m", "megatron", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("family", ["gpt2", "megatron-bert"])
def test_what_transformers_does_not_have_is_refused(tmp_path: Path, family: str) -> None:
    source = InMemory(of(family, num_query_groups=2))
    with pytest.raises(UsageError, match=f"transformers' {family} has no num_query_groups = 2 of 4 heads"):
        write(source, tmp_path / "hf", "hf")
    assert list(tmp_path.iterdir()) == []
    assert_same_tensors(open_checkpoint(write(source, tmp_path / "m", "megatron", tp=2)), source)


def test_megatrons_other_spelling_of_norms(tmp_path: Path) -> None:
    """GPT files since RMSNorm came say input_norm where older ones say input_layernorm."""
    source = InMemory()
    write(source, tmp_path, "megatron")
    file = tmp_path / "release/mp_rank_00/model_optim_rng.pt"
    values = torch.load(file, weights_only=False)
    encoder = values["model"]["language_model"]["encoder"]
    for key in list(encoder):
        encoder[key.replace("layernorm", "norm")] = encoder.pop(key)
    torch.save(values, file)
    assert_same_tensors(open_checkpoint(tmp_path), source)


def test_megatrons_halves_are_each_ranks_own(tmp_path: Path) -> None:
    """A rank's dense_h_to_4h is its own rows of the gate above its own rows of the up projection."""
    source = InMemory(MODELS["llama"])
    write(source, tmp_path, "megatron", tp=2)
    values = torch.load(tmp_path / "release/mp_rank_01/model_optim_rng.pt", weights_only=False)
    fused = values["model"]["language_model"]["encoder"]["layers.1.mlp.dense_h_to_4h.weight"]
    gate, up = (source.values[f"layers.1.mlp.{name}.weight"][24:] for name in ("gate", "up"))
    assert torch.equal(fused, torch.cat([gate, up]))
    args = values["args"]
    assert (args.swiglu, args.normalization, args.position_embedding_type) == (True, "RMSNorm", "rope")


def test_tied_embedding_of_the_last_stage(tmp_path: Path) -> None:
    for name, tied in (("llama", True), ("llama, groups, untied", False), ("megatron-bert, classification", False)):
        split_folder = tmp_path / name.replace(", ", "-")
        write(InMemory(MODELS[name]), tmp_path / "merged", "mcc-safetensors")
        split(tmp_path / "merged", split_folder, tp=1, pp=2)
        values = torch.load(split_folder / "release/mp_rank_00_001/model_optim_rng.pt", weights_only=False)
        assert ("word_embeddings_for_head" in values["model"]) == tied
        assert inspect(split_folder).tied == tied
        for file in (tmp_path / "merged").iterdir():
            file.unlink()
        (tmp_path / "merged").rmdir()


def test_post_ln_bert_in_megatrons_files(tmp_path: Path) -> None:
    """A layer there begins with the norm that ends the one before here; the flag tells it from a pre-LN BERT."""
    source = InMemory(MODELS["bert, pretraining"])
    write(source, tmp_path, "megatron", pp=2)
    first, last = (
        torch.load(tmp_path / f"release/mp_rank_00_00{stage}/model_optim_rng.pt", weights_only=False)
        for stage in (0, 1)
    )
    assert first["args"].apply_residual_connection_post_layernorm
    encoder = {
        **{f"0.{name}": value for name, value in first["model"]["language_model"]["encoder"].items()},
        **{f"1.{name}": value for name, value in last["model"]["language_model"]["encoder"].items()},
    }
    for there, here in {
        "0.layers.0.input_layernorm": "embedding.norm",
        "0.layers.0.post_attention_layernorm": "layers.0.norm1",
        "0.layers.1.input_layernorm": "layers.0.norm2",
        "1.layers.0.input_layernorm": "layers.1.norm2",
        "1.layers.1.input_layernorm": "layers.2.norm2",
        "1.final_layernorm": "layers.3.norm2",
    }.items():
        assert torch.equal(encoder[f"{there}.weight"], source.values[f"{here}.weight"]), there
    assert "0.final_layernorm.weight" not in encoder
    write(InMemory(MODELS["megatron-bert, pretraining"]), tmp_path / "pre", "megatron")
    assert open_checkpoint(tmp_path / "pre").meta.config.family == "megatron-bert"
