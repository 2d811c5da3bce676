"""Byte-level BPE: training one, and reading those that others trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tokenizers import models, pre_tokenizers, trainers

from mcc.core.config import option
from mcc.core.errors import UsageError
from mcc.core.events import SILENT, Reporter
from mcc.core.files import atomic_path
from mcc.data.documents import ReadConfig
from mcc.data.step import Step, StepReport
from mcc.data.vocabulary import END_OF_TEXT, TextTokenizer, byte_level, load_tokenizer

__all__ = ["END_OF_TEXT", "TextTokenizer", "TokenizerConfig", "TokenizerReport", "load_tokenizer", "train_tokenizer"]

# 256 bytes and the end of text.
_SMALLEST = 257


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """How a tokenizer is trained.

    Raises:
        UsageError: the vocabulary cannot hold every byte.
    """

    vocab_size: int = option(4096, "tokens in the vocabulary, with 256 bytes and <|endoftext|>")
    min_frequency: int = option(2, "a pair must occur this often to be merged")
    read: ReadConfig = field(default_factory=ReadConfig)

    def __post_init__(self) -> None:
        if self.vocab_size < _SMALLEST:
            raise UsageError(f"vocab_size = {self.vocab_size} cannot hold every byte", f"at least {_SMALLEST}")
        if self.min_frequency < 1:
            raise UsageError(f"min_frequency = {self.min_frequency} must be at least 1")


@dataclass(frozen=True, kw_only=True)
class TokenizerReport(StepReport):
    """`vocab_size` is what was reached: a small corpus may not hold enough pairs."""

    vocab_size: int


def train_tokenizer(
    inputs: Sequence[str | Path], output: Path, config: TokenizerConfig | None = None, reporter: Reporter = SILENT
) -> TokenizerReport:
    """Train byte-level BPE (Sennrich et al. 2016, GPT-2's variant) on documents; write `tokenizer.json` to `output`.

    The same documents give the same file. `output` is a `.json` file, or a folder to put `tokenizer.json` into.
    """
    config = config or TokenizerConfig()
    path = output if output.suffix == ".json" else output / "tokenizer.json"
    step = Step("tokenizer", inputs, None, read=config.read, reporter=reporter)
    key = config.read.keys[0]

    def texts() -> Iterator[str]:
        return (record[key] for record in step.records())

    tokenizer = byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    with step, atomic_path(path) as temporary:
        tokenizer.train_from_iterator(texts(), trainer)
        tokenizer.save(str(temporary))
    reached = tokenizer.get_vocab_size()
    if reached < config.vocab_size:
        reporter.warn(f"tokenizer: the documents give {reached} tokens, {config.vocab_size} were asked for")
    return step.report(TokenizerReport, vocab_size=reached, outputs=(str(path),))
