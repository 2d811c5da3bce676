"""Training a tokenizer: byte-level BPE (GPT-2's kind) or word pieces (BERT's); and reading those of others."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import orjson
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from mcc.core.config import option
from mcc.core.errors import UsageError
from mcc.core.events import SILENT, Reporter
from mcc.data.base.blocks import Block, RecordSource
from mcc.data.base.job import Apply, Job, Map, Single, run, step_report
from mcc.data.base.part import Part
from mcc.data.base.publish import Output
from mcc.data.base.records import ReadConfig
from mcc.data.base.step import StepReport
from mcc.data.base.work import Work
from mcc.data.tokens.vocabulary import END_OF_TEXT, TextTokenizer, byte_level, load_tokenizer
from mcc.data.tokens.word_counts import WordCounts
from mcc.data.tokens.word_pieces import train_word_pieces

__all__ = ["END_OF_TEXT", "TextTokenizer", "TokenizerConfig", "TokenizerReport", "load_tokenizer", "train_tokenizer"]

# 256 bytes and the end of text; the special tokens and some letters.
_SMALLEST = {"bpe": 257, "wordpiece": 32}
# White space and what follows it. Both kinds of tokenizer cut texts there, so nothing reaches from one into the next.
_WORDS = re.compile(r"\s*\S+|\s+")
# Longer ones (a language without spaces, or no text at all) are cut: they would be a table of documents.
_LONG = re.compile(r"\s*\S{1,64}|\s{1,64}")
_WORD_CHARS = 64
# A text is cut in pieces of about so many characters, each at the end of a word.
_PIECE_CHARS = 1 << 18
_WORD_END = re.compile(r"(?<=\S)\s")
# A word is handed to the trainer as often as it occurs, in strings of so many characters.
_FEED_CHARS = 1 << 16
_COUNT, _TRAIN = "words", "train"


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """How a tokenizer is trained.

    Raises:
        UsageError: the vocabulary cannot hold every byte, or settings do not go together.
    """

    model: Literal["bpe", "wordpiece"] = option("bpe", "bpe (byte-level, GPT-2's kind) or wordpiece (BERT's kind)")
    vocab_size: int = option(4096, "tokens in the vocabulary, special ones and single letters or bytes included")
    min_frequency: int = option(2, "a pair must occur this often to be merged")
    lowercase: bool = option(False, "lower-case all text and take accents off (wordpiece)")
    max_words: int = option(200_000, "distinct words in memory; with more, rare ones are sampled")
    workers: int = option(1, "processes that count words, and threads that count pairs")
    read: ReadConfig = field(default_factory=ReadConfig)

    def __post_init__(self) -> None:
        if self.model not in _SMALLEST:
            raise UsageError(f"model = {self.model!r}", "bpe or wordpiece")
        if self.vocab_size < _SMALLEST[self.model]:
            what = "every byte" if self.model == "bpe" else "the special tokens and letters"
            raise UsageError(f"vocab_size = {self.vocab_size} cannot hold {what}", f"at least {_SMALLEST[self.model]}")
        if self.min_frequency < 1:
            raise UsageError(f"min_frequency = {self.min_frequency} must be at least 1")
        if self.max_words < 1000:
            raise UsageError(f"max_words = {self.max_words} must be at least 1000")
        if self.workers < 1:
            raise UsageError(f"workers = {self.workers} must be at least 1")
        if self.lowercase and self.model == "bpe":
            raise UsageError(
                "lowercase goes with model wordpiece", "leave it out: byte-level BPE keeps texts as they are"
            )


@dataclass(frozen=True, kw_only=True)
class TokenizerReport(StepReport):
    """`vocab_size` is what was reached: a small corpus may not hold enough pairs."""

    vocab_size: int


def train_tokenizer(
    inputs: Sequence[str | Path], output: Path, config: TokenizerConfig | None = None, reporter: Reporter = SILENT
) -> TokenizerReport:
    """Train a tokenizer on documents; write `tokenizer.json`, and for word pieces `vocab.txt` beside it.

    BPE is that of Sennrich et al. 2016 in GPT-2's variant on bytes; word pieces are those of BERT (Devlin et al. 2019).
    The same documents give the same file. `output` is a `.json` file, or a folder to put `tokenizer.json` into.

    Raises:
        MccError: there are no documents.
    """
    config = config or TokenizerConfig()
    return run(tokenizer_job(inputs, output, config), config.workers, reporter)


def tokenizer_job(
    inputs: Sequence[str | Path], output: Path, config: TokenizerConfig | None = None
) -> Job[TokenizerReport]:
    """`train_tokenizer` as a job: the words of every block are counted, then a tokenizer is trained on the counts.

    Needs room on the disk of `output` for the counts, less than the documents take.
    """
    config = config or TokenizerConfig()
    path = output if output.suffix == ".json" else output / "tokenizer.json"
    source, words = RecordSource(inputs, config.read), _Words(config.max_words)
    rejects = path.with_name(f"{path.stem}.rejects.jsonl")
    outputs = [Output(rejects, phase=_COUNT, stream="rejects", optional=True)]
    if config.model == "wordpiece":
        outputs.append(Output(path.with_name("vocab.txt"), file="vocab.txt"))
    outputs.append(Output(path, file="tokenizer.json"))

    def report(counts: Counter[str], work: Work) -> TokenizerReport:
        return step_report(
            TokenizerReport,
            "tokenizer",
            {**counts, "documents_out": counts["documents_in"]},
            work,
            outputs,
            config.read.max_errors,
            vocab_size=counts["vocab_size"],
        )

    return Job(
        name="tokenizer",
        output=path,
        key=asdict(replace(config, workers=1)),
        phases=(
            Map(
                name=_COUNT,
                source=source,
                make=partial(_count, config.read),
                streams={"rejects": rejects, "counts": None},
                follow=words.follow,
            ),
            Single(name=_TRAIN, run=partial(_train, config, words)),
        ),
        outputs=outputs,
        report=report,
    )


def _count(read: ReadConfig, _: Work) -> Apply:
    key = read.keys[0]

    def apply(block: Block, out: Part) -> None:
        words: Counter[str] = Counter()
        for _, record in block.records(read, out):
            for some in _cut(record[key]):
                words.update(some)
        out.write_line("counts", orjson.dumps(words))

    return apply


class _Words:
    """The words of all blocks of a run together, as far as they have been written."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._of: Work | None = None

    def follow(self, work: Work, written: Mapping[str, int] | None = None) -> None:
        """Count what has been written since the last time; another run of the job begins anew.

        Args:
            written: where the counts end that are all there; None when they are complete.
        """
        if work is not self._of:
            self._of, self.counts = work, WordCounts(self._most)
            self._read: dict[Path, int] = {}
        for path in work.parts(_COUNT, "counts"):
            with path.open("rb") as lines:
                start = lines.seek(self._read.get(path, 0))
                end = path.stat().st_size if written is None else written["counts"]
                while start < end:
                    line = lines.readline()
                    self.counts.add_counts(orjson.loads(line))
                    start += len(line)
                self._read[path] = start


def _train(config: TokenizerConfig, words: _Words, work: Work, reporter: Reporter) -> dict[str, int]:
    words.follow(work)
    with reporter.task("tokenizer: merges"), _threads(config.workers):
        tokenizer = _fit(words.counts, config)
    tokenizer.save(str(work.path("tokenizer.json")))
    if config.model == "wordpiece":
        pieces = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
        work.path("vocab.txt").write_text("".join(f"{piece}\n" for piece, _ in pieces), encoding="utf-8")
    vocab_size = tokenizer.get_vocab_size()
    if vocab_size < config.vocab_size:
        reporter.warn(f"tokenizer: the documents give {vocab_size} tokens, {config.vocab_size} were asked for")
    return {"vocab_size": vocab_size}


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """So many for the trainer, unless the user says otherwise; they are made at the first call in a process."""
    name = "RAYON_NUM_THREADS"
    given = name in os.environ
    os.environ.setdefault(name, str(count))
    try:
        yield
    finally:
        if not given:
            os.environ.pop(name)


def _cut(text: str) -> Iterator[list[str]]:
    """White space with the word behind it, word by word; a long text in pieces, to save memory.

    >>> list(_cut("to be,\\n  or"))
    [['to', ' be,', '\\n  or']]
    """
    start = 0
    while start < len(text):
        found = _WORD_END.search(text, start + _PIECE_CHARS)
        end = found.start() if found is not None else len(text)
        words = _WORDS.findall(text, start, end)
        if max(map(len, words)) > _WORD_CHARS:
            words = [piece for word in words for piece in (_LONG.findall(word) if len(word) > _WORD_CHARS else (word,))]
        yield words
        start = end


def _fit(words: WordCounts, config: TokenizerConfig) -> Tokenizer:
    if config.model == "bpe":
        tokenizer = byte_level(models.BPE())
        trainer: Any = trainers.BpeTrainer(
            vocab_size=config.vocab_size,
            min_frequency=config.min_frequency,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        tokenizer.train_from_iterator(_feed(words.items()), trainer)
        return tokenizer
    return train_word_pieces(words.items, config.vocab_size, config.min_frequency, config.lowercase, _feed)


def _feed(words: Iterable[tuple[str, int]]) -> Iterator[list[str]]:
    """Each word as often as it was counted, some at a time."""
    for word, count in words:
        # White space before a word keeps it apart from the one before: such words can stand in one string.
        apart = word[0] in " \n\t" and not word.isspace()
        at_once = max(_FEED_CHARS // len(word), 1)
        for start in range(0, count, at_once):
            times = min(at_once, count - start)
            yield [word * times] if apart else [word] * times
