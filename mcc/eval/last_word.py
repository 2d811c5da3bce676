"""LAMBADA by Megatron-LM's protocol (arXiv 1909.08053, section 5.3): is the end of each passage the likeliest one?

Strict: the last word, white space before it, counts where all its tokens are the likeliest ones. Non-strict: the last
token of the passage.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mcc.ckpt.source import Layout
from mcc.core.errors import MccError
from mcc.core.events import SILENT, Reporter
from mcc.core.files import require_file
from mcc.eval.loading import Codecs, Loaded, load
from mcc.eval.packing import Span
from mcc.eval.records import records
from mcc.eval.scorer import DEFAULT_BATCH_TOKENS, Scorer
from mcc.eval.tokenizer import TextTokenizer

How = Literal["strict", "non-strict"]
_MOST_NATS = 700.0


@dataclass(frozen=True, kw_only=True)
class LastWordReport:
    """What one file scored.

    Args:
        checkpoint, file: what was scored.
        how: strict or non-strict.
        documents: passages; `correct` of them end in what the model finds likeliest.
        accuracy: correct / documents.
        perplexity: of an end, exp(mean of its negative log-likelihood).
        seconds: wall-clock time.
    """

    checkpoint: str
    file: str
    how: str
    documents: int
    correct: int
    accuracy: float
    perplexity: float
    seconds: float


def last_word(
    checkpoint: str | Path,
    file: str | Path,
    how: How = "strict",
    *,
    field: str = "text",
    limit: int | None = None,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
    tokenizer: str | Path | None = None,
    device: str | None = None,
    reporter: Reporter = SILENT,
    layout: Layout | None = None,
    codecs: Codecs | None = None,
    trained: bool = True,
) -> LastWordReport:
    """How often the ends of the passages in `file` are what `checkpoint` (any format) finds likeliest.

    Args:
        checkpoint: where the model is.
        file: JSONL, a passage a line.
        how: which end: the last word, or the last token.
        field: of a record.
        limit: score only the first passages.
        batch_tokens: most tokens of a forward pass.
        tokenizer: its file [the one beside the checkpoint].
        device: as torch names it [the GPU where there is one].
        reporter: receives progress.
        layout: how the model is cut among the ranks that a launcher started.
        codecs, trained: see `mcc.eval.loading.load`.

    Raises:
        MccError: the checkpoint or its tokenizer cannot be used, or the file is missing, empty or malformed.
    """
    path = require_file(file, "text file")
    loaded = load(checkpoint, tokenizer, device, reporter, layout, codecs=codecs, trained=trained)
    with loaded.leading():
        return last_word_of(loaded, path, how, field, limit, batch_tokens, reporter)


def last_word_of(
    loaded: Loaded,
    file: Path,
    how: How = "strict",
    field: str = "text",
    limit: int | None = None,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
    reporter: Reporter = SILENT,
) -> LastWordReport:
    """`last_word` of a model in memory."""
    start = time.perf_counter()
    scorer = Scorer(loaded.model, batch_tokens, loaded.place, alike=bool(loaded.coding))
    spans: list[Span] = []
    for line, record in records(file):
        if len(spans) == limit:
            break
        passage = record.get(field)
        if not isinstance(passage, str):
            has = ", ".join(map(repr, record)) or "none"
            raise MccError(f"{file}:{line}: no text in field {field!r} (has {has})", "--field NAME")
        span = end_of(passage, how, loaded.tokenizer, scorer.max_length)
        if span is None:
            raise MccError(f"{file}:{line}: a passage of one word, or of more than the model's context, has no end")
        spans.append(span)
    if not spans:
        raise MccError(f"{file} is empty: there is nothing to score", "give a JSONL file, one passage a line")
    total, correct = 0.0, 0
    with reporter.task(f"score {file.name}", total=len(spans), unit="passages") as task:
        for _, score in scorer.score(spans):
            total += score.log_likelihood
            correct += score.is_greedy
            task.advance()
    return LastWordReport(
        checkpoint=str(loaded.checkpoint),
        file=str(file),
        how=how,
        documents=len(spans),
        correct=correct,
        accuracy=correct / len(spans),
        perplexity=math.exp(min(-total / len(spans), _MOST_NATS)),
        seconds=time.perf_counter() - start,
    )


def end_of(passage: str, how: How, tokenizer: TextTokenizer, context: int) -> Span | None:
    """What is read and what should follow; what does not fit the context loses its left end. None: nothing is read."""
    if how == "strict":
        word = passage.split()[-1] if passage.split() else ""
        before = passage[: passage.rfind(word)].strip() if word else ""
        ids = tokenizer.encode(before) if before else []
        target = tokenizer.encode(f" {word}", special=False)
    else:
        *ids, last = tokenizer.encode(passage) or [0]
        target = [last]
    if not ids or len(target) > context:
        return None
    return Span((ids + target)[-(context + 1) :][:-1], target)
