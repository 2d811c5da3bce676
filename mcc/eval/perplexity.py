"""Perplexity of a text: Megatron-LM's protocol for WikiText-103 (arXiv 1909.08053, section 5.3), and plain corpora.

The text is one stream of tokens. Windows of the model's context length advance by `overlap` tokens, and only the
`overlap` newest tokens of each are scored (all of the first one's), so that every token but the first is predicted
once, from at least context - overlap tokens where there are so many. Word-level perplexity spreads the same
log-likelihood over the words of the text before it was detokenised: it compares models of different tokenizers.

    token perplexity = exp(-L / (N_tok - 1))      word perplexity = exp(-L / (N_orig - 1))      L in nats
"""

from __future__ import annotations

import itertools
import math
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mcc.ckpt.source import Layout
from mcc.core.errors import MccError, UsageError
from mcc.core.events import SILENT, Reporter
from mcc.core.events import Task as Progress
from mcc.core.files import require_file
from mcc.eval.detokenize import detokenizer
from mcc.eval.loading import Codecs, Loaded, load
from mcc.eval.records import records
from mcc.eval.scorer import DEFAULT_BATCH_TOKENS, Scorer, Span
from mcc.eval.tokenizer import TextTokenizer

DEFAULT_OVERLAP = 32
# A plain text is read and tokenized in pieces of this many characters, so that memory does not grow with it.
_PIECE_CHARS = 1 << 20
# A cut is looked for in this many characters at the end of a piece, before white space that every tokenizer knows.
_CUT, _CUT_REACH = re.compile(r"\S(?=[ \t\r\n])"), 1 << 14
# Windows are gathered and sorted by length this many tokens at a time.
_GATHERED_TOKENS = 1 << 18
# Marks of a tokenized text, which a model of natural text should not be scored on.
_TOKENIZED = re.compile(r" @[-,.]@ ")
# The largest exponent whose power is a float.
_MOST_NATS = 700.0


@dataclass(frozen=True, kw_only=True)
class PerplexityReport:
    """What one file scored.

    Args:
        checkpoint, file: what was scored.
        documents: 1 for a plain text, the number of records of a JSONL file.
        tokens: tokens of the text.
        scored_tokens: those that were predicted: without a document's first, unless an end-of-text token precedes it.
        words: words before detokenising; None without word level.
        log_likelihood: sum over the scored tokens, nats.
        loss: nats a token.
        perplexity: of a token.
        word_perplexity: of a word; None without word level.
        overlap: tokens by which windows advance.
        context: tokens of a window.
        seconds: wall-clock time, reading and tokenizing included.
    """

    checkpoint: str
    file: str
    documents: int
    tokens: int
    scored_tokens: int
    words: int | None
    log_likelihood: float
    loss: float
    perplexity: float
    word_perplexity: float | None
    overlap: int
    context: int
    seconds: float


def perplexity(
    checkpoint: str | Path,
    file: str | Path,
    *,
    overlap: int | None = None,
    word_level: bool = True,
    detokenize: str | None = None,
    field: str = "text",
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
    tokenizer: str | Path | None = None,
    device: str | None = None,
    reporter: Reporter = SILENT,
    layout: Layout | None = None,
    codecs: Codecs | None = None,
    trained: bool = True,
) -> PerplexityReport:
    """Perplexity of `checkpoint` (any format) on `file`. Among several ranks only the first returns.

    Args:
        checkpoint: where the model is.
        file: a plain text, or documents as JSONL (`.jsonl`, `.json`), each scored for itself after an end-of-text
            token.
        overlap: tokens by which windows advance, 1 to the model's context [32]. The context makes them disjoint:
            fastest, and an upper bound. Megatron-LM calls it `--overlapping-eval`.
        word_level: count words, for the word-level perplexity.
        detokenize: `wikitext` for the WikiText files. Words are then counted as Megatron-LM does, between single
            spaces, so that a line end is one; otherwise they stand between white space.
        field: of a JSONL record.
        batch_tokens: most tokens of a forward pass.
        tokenizer: its file [the one beside the checkpoint].
        device: as torch names it [the GPU where there is one].
        reporter: receives progress.
        layout: how the model is cut among the ranks that a launcher started.
        codecs, trained: see `mcc.eval.loading.load`.

    Raises:
        UsageError: an overlap that does not fit, or an unknown detokenizer.
        MccError: the checkpoint or its tokenizer cannot be used, or the file is missing, empty or malformed.
    """
    path = require_file(file, "text file")
    if detokenize is not None:
        detokenizer(detokenize)  # an unknown name is told before a large model is read
    loaded = load(checkpoint, tokenizer, device, reporter, layout, codecs=codecs, trained=trained)
    with loaded.leading():
        return perplexity_of(
            loaded,
            path,
            overlap=overlap,
            word_level=word_level,
            detokenize=detokenize,
            field=field,
            batch_tokens=batch_tokens,
            reporter=reporter,
        )


def perplexity_of(
    loaded: Loaded,
    file: Path,
    *,
    overlap: int | None = None,
    word_level: bool = True,
    detokenize: str | None = None,
    field: str = "text",
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
    reporter: Reporter = SILENT,
) -> PerplexityReport:
    """`perplexity` of a model in memory."""
    start = time.perf_counter()
    scorer = Scorer(loaded.model, batch_tokens, loaded.place, sharing=False, alike=bool(loaded.coding))
    if overlap is None:
        overlap = min(DEFAULT_OVERLAP, scorer.max_length)
    if not 1 <= overlap <= scorer.max_length:
        raise UsageError(
            f"overlap = {overlap} must be from 1 to the model's context of {scorer.max_length}",
            f"windows advance by this many tokens: --overlap {min(DEFAULT_OVERLAP, scorer.max_length)}",
        )
    texts = _Texts(loaded.tokenizer, file, field, detokenize, reporter)
    with reporter.task(f"score {file.name}", unit="tokens") as task:
        spans = itertools.chain.from_iterable(
            windows(stream, scorer.max_length, overlap, texts.prefix) for stream in texts.streams()
        )
        total, scored = _sum(scorer, spans, task)
    if scored == 0:
        raise MccError(f"{file} has {texts.tokens} tokens: there is nothing to predict", "give a longer text")
    # As many words are predicted as tokens: without each document's first where that is not predicted either.
    words = texts.words - (0 if texts.prefix else texts.documents)
    return PerplexityReport(
        checkpoint=str(loaded.checkpoint),
        file=str(file),
        documents=texts.documents,
        tokens=texts.tokens,
        scored_tokens=scored,
        words=texts.words if word_level else None,
        log_likelihood=total,
        loss=-total / scored,
        perplexity=_exp(-total / scored),
        word_perplexity=_exp(-total / words) if word_level and words > 0 else None,
        overlap=overlap,
        context=scorer.max_length,
        seconds=time.perf_counter() - start,
    )


def windows(stream: Iterable[int], context: int, overlap: int, prefix: Sequence[int] = ()) -> Iterator[Span]:
    """Overlapping windows over `stream`, together predicting each token once but the first of prefix + stream.

    >>> [(w.inputs, w.targets) for w in windows(range(6), context=3, overlap=2)]
    [([0, 1, 2], [1, 2, 3]), ([2, 3, 4], [4, 5])]
    """
    tokens = iter(itertools.chain(prefix, stream))
    held = list(itertools.islice(tokens, context + 1))
    fresh = len(held) - 1
    while fresh > 0:
        yield Span(held[:-1], held[-fresh:])
        new = list(itertools.islice(tokens, overlap))
        fresh = len(new)
        # The last window of Megatron-LM's is padded on the right: it begins where a full one would.
        held = held[overlap:] + new


class _Texts:
    """The file's documents as token streams, counted as they are read.

    Attributes:
        prefix: what stands before every document: nothing before a plain text, which Megatron-LM scores from its
            second token; the end-of-text token before a record, as in training.
    """

    def __init__(
        self, tokenizer: TextTokenizer, file: Path, field: str, detokenize: str | None, reporter: Reporter
    ) -> None:
        self.tokenizer, self.file, self.field = tokenizer, file, field
        self.detokenize = None if detokenize is None else detokenizer(detokenize)
        self.reporter = reporter
        self.documents = self.tokens = self.words = 0
        self.is_jsonl = file.suffix in (".jsonl", ".json")
        self.prefix = [tokenizer.eos_id] if self.is_jsonl and tokenizer.eos_id is not None else []

    def streams(self) -> Iterator[Iterator[int]]:
        """One stream of token ids for each document; read each to its end before the next.

        Raises:
            MccError: the file is empty, not UTF-8, or a record has no text.
        """
        if not self.is_jsonl:
            self.documents = 1
            yield self._ids(self._plain())
        else:
            for line, record in records(self.file):
                text = record.get(self.field)
                if not isinstance(text, str):
                    has = ", ".join(map(repr, record)) or "none"
                    raise MccError(f"{self.file}:{line}: no text in field {self.field!r} (has {has})", "--field NAME")
                self.documents += 1
                yield self._ids(iter([text]))
        if self.tokens == 0:
            raise MccError(f"{self.file} is empty: there is nothing to score", "give a text, or JSONL documents")

    def _ids(self, pieces: Iterator[str]) -> Iterator[int]:
        if self.detokenize is not None or not self.tokenizer.is_byte_level:
            # These look further than a cut: the whole text at once, as Megatron-LM reads it.
            pieces = iter(["".join(pieces)])
        for piece in pieces:
            self._count_words(piece)
            ids = self.tokenizer.encode(self.detokenize(piece) if self.detokenize else piece)
            self.tokens += len(ids)
            yield from ids

    def _count_words(self, piece: str) -> None:
        if self.detokenize is not None:
            self.words += len(piece.strip().split(" "))
            return
        if self.words == 0 and _TOKENIZED.search(piece):
            self.reporter.warn(f"{self.file} looks tokenized (@-@, @,@): score it with --detokenize wikitext")
        self.words += len(piece.split())

    def _plain(self) -> Iterator[str]:
        """Pieces of the file, each cut before white space that follows a word: no word and no token is cut."""
        rest = ""
        try:
            # newline="": a line end is what it is in the file, as in Megatron-LM's reader.
            with self.file.open(encoding="utf-8", newline="") as file:
                while piece := file.read(_PIECE_CHARS):
                    rest += piece
                    cut = _last_cut(rest)
                    if cut:
                        yield rest[:cut]
                        rest = rest[cut:]
        except UnicodeDecodeError as error:
            raise MccError(f"{self.file} is not UTF-8: {error.reason} near byte {error.start}") from None
        if rest:
            yield rest


def _last_cut(text: str) -> int:
    """Where the last white space begins that follows a word; 0 when there is none.

    >>> _last_cut("one two  three"), _last_cut("one two "), _last_cut("one")
    (7, 7, 0)
    """
    at = 0
    for found in _CUT.finditer(text, max(0, len(text) - _CUT_REACH)):
        at = found.end()
    return at


def _sum(scorer: Scorer, spans: Iterator[Span], task: Progress) -> tuple[float, int]:
    """(log-likelihood, tokens scored) over all spans; a bounded number of them is held at a time."""
    total, scored = 0.0, 0
    while True:
        gathered, size = [], 0
        for span in spans:
            gathered.append(span)
            size += len(span.inputs)
            if size >= _GATHERED_TOKENS:
                break
        if not gathered:
            return total, scored
        for index, score in scorer.score(gathered):
            total += score.log_likelihood
            scored += len(gathered[index].targets)
            task.advance(len(gathered[index].targets))


def _exp(nats: float) -> float:
    return math.exp(min(nats, _MOST_NATS))
