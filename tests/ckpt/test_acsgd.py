"""AC-SGD's GPT-2 files: read as its converter writes them, written as its pipeline stages load them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from mcc.ckpt.format import WriteOptions, formats, open_checkpoint
from mcc.ckpt.load import load_model, logits
from mcc.core.errors import MccError, UsageError
from mcc.models.base.config import ModelConfig
from tests.ckpt.models import InMemory, assert_same_tensors, tokens_for, transformers_gpt2
from tests.ckpt.test_foreign import Hostile


def lay_out(model: Any, folder: Path, config: bool = True) -> None:
    """What AC-SGD's converter leaves of a GPT2LMHeadModel under transformers 4.19."""
    folder.mkdir()
    body, positions = model.transformer, model.config.n_positions
    torch.save({"wpe.weight": body.wpe.weight.data, "wte.weight": body.wte.weight.data}, folder / "pytorch_embs.pt")
    for number, block in enumerate(body.h):
        masks = {
            "attn.bias": torch.ones(1, 1, positions, positions, dtype=torch.uint8).tril(),
            "attn.masked_bias": torch.tensor(-1e4),
        }
        torch.save({**block.state_dict(), **masks}, folder / f"pytorch_{number}.pt")
    top = {"ln_f.weight": body.ln_f.weight.data, "ln_f.bias": body.ln_f.bias.data}
    torch.save({**top, "lm_head.weight": model.lm_head.weight.data}, folder / "pytorch_lm_head.pt")
    if config:
        model.config.save_pretrained(folder)


@pytest.mark.parametrize("config", [True, False])
def test_their_files_give_their_logits(tmp_path: Path, config: bool) -> None:
    # Without config.json heads of 64 channels are assumed, as every GPT-2 has.
    model = transformers_gpt2(n_embd=128, n_head=2, n_inner=96, n_positions=12)
    lay_out(model, tmp_path / "theirs", config)
    loaded = load_model(tmp_path / "theirs")
    assert loaded.source_format == "acsgd"
    assert loaded.meta.unread == ()
    assert not loaded.config.untie_embeddings_and_output_weights
    tokens = tokens_for(301, 12)
    with torch.no_grad():
        assert torch.allclose(logits(loaded, tokens), model(tokens).logits, atol=1e-4)


def test_a_head_that_was_trained_apart_is_an_output_layer_of_its_own(tmp_path: Path) -> None:
    model = transformers_gpt2()
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach() + 1)
    lay_out(model, tmp_path / "theirs")
    source = open_checkpoint(tmp_path / "theirs")
    assert source.meta.config.untie_embeddings_and_output_weights
    assert torch.equal(source.read("output.weight"), model.lm_head.weight)


@pytest.mark.parametrize("untied", [True, False])
def test_their_stages_load_what_is_written(tmp_path: Path, untied: bool) -> None:
    """Each module of a stage loads its file strictly, and the stages together are the model."""
    config = ModelConfig(
        num_layers=3, hidden_size=32, num_attention_heads=4, seq_length=16, vocab_size=301,
        untie_embeddings_and_output_weights=untied,
    )  # fmt: skip
    model = InMemory(config)
    formats.get("acsgd")().write(model, tmp_path / "out")
    theirs = transformers_gpt2(**json.loads((tmp_path / "out" / "config.json").read_text()))
    theirs.lm_head.weight = torch.nn.Parameter(torch.zeros(301, 32))
    embeddings = torch.load(tmp_path / "out" / "pytorch_embs.pt")
    assert embeddings.keys() == {"wte.weight", "wpe.weight"}
    theirs.transformer.wte.weight.data, theirs.transformer.wpe.weight.data = embeddings.values()
    for number, block in enumerate(theirs.transformer.h):
        held = torch.load(tmp_path / "out" / f"pytorch_{number}.pt")
        assert held.pop("attn.masked_bias").item() == -1e4
        assert torch.equal(held.pop("attn.bias"), torch.ones(1, 1, 16, 16, dtype=torch.uint8).tril())
        block.load_state_dict(held)
    top = torch.load(tmp_path / "out" / "pytorch_lm_head.pt")
    assert top.keys() == {"ln_f.weight", "ln_f.bias", "lm_head.weight"}
    theirs.transformer.ln_f.load_state_dict(
        {key.removeprefix("ln_f."): top[key] for key in ("ln_f.weight", "ln_f.bias")}
    )
    theirs.lm_head.load_state_dict({"weight": top["lm_head.weight"]})
    formats.get("mcc-safetensors")().write(model, tmp_path / "ours")
    tokens = tokens_for(301)
    with torch.no_grad():
        assert torch.allclose(theirs(tokens).logits, logits(load_model(tmp_path / "ours"), tokens), atol=1e-4)
    assert_same_tensors(open_checkpoint(tmp_path / "out"), model)


def test_another_family_and_a_layout_are_refused(tmp_path: Path) -> None:
    llama = InMemory(ModelConfig(family="llama", hidden_size=32, vocab_size=64))
    with pytest.raises(UsageError, match="AC-SGD's files hold GPT-2, not llama"):
        formats.get("acsgd")().write(llama, tmp_path / "out")
    with pytest.raises(UsageError, match="one whole model"):
        formats.get("acsgd")().write(InMemory(), tmp_path / "out", WriteOptions(tp=2))
    assert not (tmp_path / "out").exists()


def test_damaged_files_are_named(tmp_path: Path) -> None:
    def broken(name: str, change: Any) -> str:
        folder = tmp_path / name
        formats.get("acsgd")().write(InMemory(), folder)
        change(folder)
        with pytest.raises(MccError) as refused:
            open_checkpoint(folder)
        return refused.value.what

    def cut(folder: Path) -> None:
        file = folder / "pytorch_1.pt"
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

    def without(folder: Path) -> None:
        held = torch.load(folder / "pytorch_2.pt")
        del held["ln_2.bias"]
        torch.save(held, folder / "pytorch_2.pt")

    def turned(folder: Path) -> None:
        held = torch.load(folder / "pytorch_2.pt")
        held["attn.c_attn.weight"] = held["attn.c_attn.weight"].T.clone()
        torch.save(held, folder / "pytorch_2.pt")

    def hostile(folder: Path) -> None:
        torch.save({"ln_1.weight": Hostile(os.system, f"touch '{tmp_path / 'it ran'}'")}, folder / "pytorch_0.pt")

    assert "missing file" in (what := broken("gap", lambda f: (f / "pytorch_1.pt").unlink())) and "pytorch_1.pt" in what
    what = broken("end", lambda f: (f / "pytorch_3.pt").unlink())
    assert "files of 3 layers, but config.json has n_layer = 4" in what
    assert "pytorch_1.pt is truncated" in broken("cut", cut)
    assert "pytorch_2.pt has no tensor ln_2.bias" in broken("without", without)
    assert "pytorch_2.pt: tensor attn.c_attn.weight has shape [96, 32], not [32, 96]" in broken("turned", turned)
    assert "system, which no checkpoint needs" in broken("hostile", hostile)
    assert not (tmp_path / "it ran").exists()


def test_heads_that_nothing_tells_are_asked_for(tmp_path: Path) -> None:
    formats.get("acsgd")().write(InMemory(), tmp_path / "a")
    (tmp_path / "a" / "config.json").unlink()
    with pytest.raises(MccError, match="the number of heads is unknown"):
        open_checkpoint(tmp_path / "a")
