"""A tiny random GPT-2 with a tokenizer of its own, and the same weights in transformers' model."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from mcc.eval.loading import Loaded
from mcc.eval.tokenizer import TextTokenizer
from mcc.models.base.axes import Axes
from mcc.models.base.config import ModelConfig
from mcc.models.base.family import families
from mcc.models.base.forms import FORMS
from mcc.models.base.transformer import Stage

os.environ["HF_HUB_OFFLINE"] = "1"  # no test may reach the network

END = "<|endoftext|>"


@pytest.fixture(scope="session")
def corpus() -> str:
    """English text that every Python carries."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics)[:12])


@pytest.fixture(scope="session")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory, corpus: str) -> Path:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([corpus], trainer)
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(file))
    return file


@pytest.fixture(scope="session")
def config() -> ModelConfig:
    # The padded vocabulary is 512: twelve rows are no tokens. It was trained on samples shorter than its context.
    return ModelConfig(
        num_layers=2,
        hidden_size=32,
        num_attention_heads=4,
        vocab_size=500,
        seq_length=16,
        max_position_embeddings=48,
    )


@pytest.fixture(scope="session")
def model(config: ModelConfig) -> Stage:
    """Weights large enough that predictions differ from position to position."""
    torch.manual_seed(0)
    stage = families.get(config.family)().build(config, Axes(), range(config.num_layers))
    with torch.no_grad():
        for name, parameter in stage.named_parameters():
            parameter.normal_(std=0.3)
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1.0)
        assert stage.embedding is not None
        stage.embedding.tokens.weight[config.vocab_size :] = 9.0  # would win if padding were scored
    return stage.eval()


@pytest.fixture(scope="session")
def tokenizer(tokenizer_file: Path) -> TextTokenizer:
    return TextTokenizer(tokenizer_file)


@pytest.fixture(scope="session")
def loaded(model: Stage, tokenizer: TextTokenizer) -> Loaded:
    return Loaded(Path("tiny"), model, tokenizer)


@pytest.fixture(scope="session")
def hf_model(model: Stage, config: ModelConfig) -> Any:
    """The same weights as transformers' GPT2LMHeadModel, by the family's table."""
    from transformers import GPT2Config, GPT2LMHeadModel

    family = families.get(config.family)()
    values = {**family.to_hf_config(config), "bos_token_id": 0, "eos_token_id": 0}
    values.pop("architectures")
    other = GPT2LMHeadModel(GPT2Config(**values)).eval()
    theirs = dict(other.named_parameters())
    ours = dict(model.named_parameters())
    with torch.no_grad():
        for name, row, index in family.table(config):
            tensor = ours[name][: config.vocab_size] if "V" in row.shape else ours[name]
            theirs[row.hf.format(i=index)].copy_(FORMS[row.hf_form].to(tensor, config))
    return other


@pytest.fixture(scope="session")
def hf_folder(tmp_path_factory: pytest.TempPathFactory, hf_model: Any, tokenizer_file: Path) -> Path:
    """The model in transformers' format, its tokenizer beside it."""
    folder = tmp_path_factory.mktemp("hf")
    hf_model.save_pretrained(folder)
    shutil.copy(tokenizer_file, folder / "tokenizer.json")
    return folder


@pytest.fixture(scope="session")
def hf_tokenizer(tokenizer_file: Path) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_file=str(tokenizer_file), bos_token=END, eos_token=END, pad_token=END, model_max_length=10**9
    )


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[[Sequence[Any]], Path]:
    """Writes records (or raw lines) to a file and gives its path."""

    def write(records: Sequence[Any], name: str = "task.jsonl") -> Path:
        file = tmp_path / name
        lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
        file.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        return file

    return write


@pytest.fixture
def passages(corpus: str) -> list[str]:
    """Forty passages of very different lengths, some longer than the model's context; none has a newline."""
    words = corpus.split()
    return [" ".join(words[at * 90 : at * 90 + 3 + (at * 7) % 80]) for at in range(40)]
