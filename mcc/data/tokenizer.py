"""Byte-level BPE: training one, and reading those that others trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from mcc.core.config import option
from mcc.core.errors import MccError, UsageError
from mcc.core.events import SILENT, Reporter
from mcc.core.files import atomic_path
from mcc.data.documents import ReadConfig
from mcc.data.step import Step, StepReport

END_OF_TEXT = "<|endoftext|>"
# What models call the token between documents; the first that a vocabulary has is taken.
_END_NAMES = (END_OF_TEXT, "</s>", "<|end_of_text|>", "<eos>", "<|eos|>", "[SEP]")
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


class TextTokenizer:
    """A tokenizer read from files: text to ids and back.

    Attributes:
        backend: the `tokenizers.Tokenizer`.
        vocab_size: with added tokens.
        eod: id of the token between documents, or None when the vocabulary has none.
        source: the path it was read from.
    """

    def __init__(self, backend: Tokenizer, source: Path) -> None:
        self.backend = backend
        self.source = source
        self.vocab_size: int = backend.get_vocab_size(with_added_tokens=True)
        ids = (backend.token_to_id(name) for name in _END_NAMES)
        self.eod: int | None = next((found for found in ids if found is not None), None)
        # Megatron-LM adds no special tokens around a document.
        backend.no_padding()
        backend.no_truncation()

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without special tokens around it."""
        ids: list[int] = self.backend.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens shown."""
        text: str = self.backend.decode([int(i) for i in ids], skip_special_tokens=False)
        return text

    def require_eod(self) -> int:
        """`eod`.

        Raises:
            MccError: the vocabulary has no token for it.
        """
        if self.eod is None:
            raise MccError(
                f"{self.source}: the vocabulary has no end-of-document token", f"known: {', '.join(_END_NAMES)}"
            )
        return self.eod


def load_tokenizer(path: str | Path) -> TextTokenizer:
    """A tokenizer from `tokenizer.json`, a folder that holds one, or a folder with GPT-2's `vocab.json` + `merges.txt`.

    Raises:
        MccError: the files are missing or not what their names say.
    """
    given = Path(path)
    if not given.exists():
        raise MccError(
            f"no such tokenizer: {given}", "give tokenizer.json, or a folder with it or vocab.json + merges.txt"
        )
    if given.is_dir():
        if (given / "tokenizer.json").is_file():
            given = given / "tokenizer.json"
        elif (given / "vocab.json").is_file() and (given / "merges.txt").is_file():
            return TextTokenizer(_gpt2(given), given)
        else:
            raise MccError(f"no tokenizer in {given}", "it needs tokenizer.json, or vocab.json and merges.txt")
    try:
        return TextTokenizer(Tokenizer.from_file(str(given)), given)
    except Exception as error:  # the library raises plain Exception
        raise MccError(f"{given}: not a tokenizer file: {_one_line(error)}", "give a tokenizer.json") from error


def _gpt2(folder: Path) -> Tokenizer:
    try:
        model = models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    except Exception as error:
        raise MccError(f"{folder}: not a GPT-2 vocabulary: {_one_line(error)}") from error
    return _byte_level(model)


def _byte_level(model: Any) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    if tokenizer.token_to_id(END_OF_TEXT) is not None:
        tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    return tokenizer


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


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

    tokenizer = _byte_level(models.BPE())
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
