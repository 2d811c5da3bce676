"""Small random models for the tests: in memory as a `Source`, and as transformers' own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mcc.ckpt.source import Meta, Source, expected_shapes
from mcc.models.base.config import ModelConfig

# 301 is prime: no padding rule divides it.
SMALL = ModelConfig(
    num_layers=4, hidden_size=32, num_attention_heads=4, seq_length=16, vocab_size=301, make_vocab_size_divisible_by=8
)


class InMemory(Source):
    """A model of random numbers."""

    def __init__(
        self,
        config: ModelConfig = SMALL,
        dtype: torch.dtype = torch.float32,
        slots: tuple[str, ...] = (),
        iteration: int = 0,
        tokenizer: Path | None = None,
    ) -> None:
        self.meta = Meta(
            config=config, iteration=iteration, padded_vocab_size=config.vocab_size, tokenizer=tokenizer,
            extra={"consumed_samples": iteration * 8},
        )  # fmt: skip
        generator = torch.Generator().manual_seed(0)
        self.values = {
            name: (torch.randn(shape, generator=generator) / 4).to(dtype)
            for name, shape in expected_shapes(config).items()
        }
        self._slots = slots

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self.values.items()}

    def dtypes(self) -> dict[str, torch.dtype]:
        return {name: tensor.dtype for name, tensor in self.values.items()}

    def read(self, name: str) -> Tensor:
        return self.values[name]

    def slots(self) -> tuple[str, ...]:
        return self._slots

    def read_slot(self, slot: str, name: str) -> Tensor:
        return self.values[name].float() + 1 + self._slots.index(slot)


def assert_same_tensors(a: Source, b: Source) -> None:
    """Same names, dtypes and bytes."""
    assert a.shapes() == b.shapes()
    assert a.dtypes() == b.dtypes()
    for name in a.shapes():
        assert torch.equal(a.read(name), b.read(name)), name


def transformers_gpt2(vocab_size: int = 301, **overrides: Any) -> Any:
    """A GPT-2 of transformers with every parameter random, norms and biases too."""
    from transformers import GPT2Config, GPT2LMHeadModel

    values = {"n_positions": 16, "n_embd": 32, "n_layer": 3, "n_head": 4, "bos_token_id": None, "eos_token_id": None}
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=vocab_size, **(values | overrides))).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def tokens_for(vocab_size: int, length: int = 16) -> Tensor:
    """Random token ids [2, length], the last of the vocabulary among them."""
    tokens = torch.randint(0, vocab_size, (2, length), generator=torch.Generator().manual_seed(1))
    tokens[0, 0] = vocab_size - 1
    return tokens


def byte_tokenizer(file: Path, size: int = 280) -> Path:
    """A byte-level BPE tokenizer of at most `size` tokens with <|endoftext|> as id 0."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(["the cat sat on the mat, and the other cat sat there too"] * 4, trainer)
    tokenizer.save(str(file))
    return file
