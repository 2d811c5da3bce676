"""Roles of special tokens, and tokenizers that do not fit their model."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mcc.core.errors import MccError, UsageError
from mcc.core.events import Silent
from mcc.eval import loading
from mcc.eval.tokenizer import TextTokenizer, load_tokenizer
from mcc.models.base.config import ModelConfig


def test_the_end_of_text_is_found_or_named(tokenizer_file: Path, tmp_path: Path) -> None:
    found = TextTokenizer(tokenizer_file)
    assert (found.eos_id, found.bos_id, found.prefix_id, found.size) == (0, None, 0, 500)
    shutil.copy(tokenizer_file, tmp_path)
    roles = {"eos_token": {"content": "a"}, "bos_token": "b"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(roles))
    named = TextTokenizer(tmp_path)
    assert [named.decode([found]) for found in (named.eos_id, named.bos_id, named.prefix_id) if found] == [
        "a",
        "b",
        "b",
    ]


def test_pieces_are_only_for_byte_level(tokenizer_file: Path, tmp_path: Path) -> None:
    layout = json.loads(tokenizer_file.read_text())
    assert TextTokenizer(tokenizer_file).is_byte_level
    for key, value in (
        ("normalizer", {"type": "Lowercase"}),
        ("pre_tokenizer", {**layout["pre_tokenizer"], "add_prefix_space": True}),
        ("pre_tokenizer", {"type": "WhitespaceSplit"}),
        ("added_tokens", [{**layout["added_tokens"][0], "lstrip": True}]),
    ):
        (tmp_path / "tokenizer.json").write_text(json.dumps({**layout, key: value}))
        assert not TextTokenizer(tmp_path).is_byte_level, key


def test_a_tokenizer_that_does_not_fit_is_refused(tokenizer_file: Path, config: ModelConfig, tmp_path: Path) -> None:
    assert load_tokenizer(tokenizer_file, config).size == 500
    with pytest.raises(MccError, match=r"the tokenizer has 500 tokens, the model's vocabulary 499") as caught:
        load_tokenizer(tokenizer_file, dataclasses.replace(config, vocab_size=499))
    assert "--tokenizer FILE" in str(caught.value.hint)

    class Warned(Silent):
        text = ""

        def warn(self, text: str) -> None:
            self.text = text

    reporter = Warned()
    load_tokenizer(tokenizer_file, dataclasses.replace(config, vocab_size=512), reporter)
    assert "has 500 tokens, the model's vocabulary 512: is it the one" in reporter.text
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(MccError, match="not a tokenizer file"):
        load_tokenizer(tmp_path / "tokenizer.json", config)
    with pytest.raises(MccError, match="no such tokenizer"):
        load_tokenizer(tmp_path / "none.json", config)


def test_a_checkpoint_without_a_tokenizer_names_the_flag(
    tokenizer_file: Path, config: ModelConfig, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mcc.ckpt import load as ckpt

    found = SimpleNamespace(model=model, config=config, tokenizer_file=None)
    monkeypatch.setattr(ckpt, "load_stage", lambda *_, **__: found)
    with pytest.raises(MccError, match="bare: no tokenizer beside the checkpoint") as caught:
        loading.load("bare")
    assert caught.value.hint == "name its file: --tokenizer FILE"
    assert loading.load("bare", tokenizer_file).tokenizer.file == tokenizer_file


def test_devices() -> None:
    assert str(loading.find_device("cpu")) == "cpu"
    for wrong in ("gpu", "cuda:99"):
        with pytest.raises(UsageError, match=f"no device '{wrong}'"):
            loading.find_device(wrong)
