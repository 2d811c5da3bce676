"""Documents to Megatron-LM's token files: `PREFIX_KEY_document.bin/.idx`, byte for byte what Megatron-LM writes.

One defect of some forks is not copied: with `append_eod` the end-of-document token counts in the sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcc.core.config import option
from mcc.core.errors import UsageError
from mcc.core.events import SILENT, Reporter
from mcc.data.documents import ReadConfig
from mcc.data.indexed import IndexedWriter, token_dtype
from mcc.data.step import Step, StepReport
from mcc.data.tokenizer import TextTokenizer, load_tokenizer
from mcc.data.workers import ordered_map

# A batch ends after this many characters: large enough to keep a worker busy, small enough to bound memory.
_BATCH_CHARS = 1 << 20
_BATCH_DOCUMENTS = 512


@dataclass(frozen=True, kw_only=True)
class PreprocessConfig:
    """What is written. `read.keys` are the keys to take; each gets files of its own.

    Raises:
        UsageError: `workers` is not positive.
    """

    append_eod: bool = option(False, "end every document with the end-of-document token")
    workers: int = option(1, "processes that tokenize")
    read: ReadConfig = field(default_factory=ReadConfig)

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise UsageError(f"workers = {self.workers} must be at least 1")


@dataclass(frozen=True, kw_only=True)
class PreprocessReport(StepReport):
    """`tokens` by key, with the end-of-document tokens; `prefixes` are what training takes."""

    tokens: dict[str, int]
    prefixes: dict[str, str]
    vocab_size: int
    dtype: str


# For one key: the tokens of a batch end to end, and the length of each document.
Encoded = tuple[NDArray[Any], list[int]]


def document_prefix(prefix: str | Path, key: str = "text") -> Path:
    """The prefix of the files for `key`.

    >>> str(document_prefix("out/wiki"))
    'out/wiki_text_document'
    """
    return Path(f"{prefix}_{key}_document")


def encode_batch(tokenizer: TextTokenizer, eod: int | None, texts: list[list[str]]) -> list[Encoded]:
    """Tokens of `texts[key][document]`; a document without tokens gets no `eod` either (as in Megatron-LM)."""
    dtype = token_dtype(tokenizer.vocab_size)
    out = []
    for column in texts:
        flat: list[int] = []
        lengths = []
        for text in column:
            ids = tokenizer.encode(text)
            if ids and eod is not None:
                ids.append(eod)
            flat += ids
            lengths.append(len(ids))
        out.append((np.array(flat, dtype=dtype), lengths))
    return out


def preprocess(
    inputs: Sequence[str | Path],
    output_prefix: str | Path,
    tokenizer: str | Path,
    config: PreprocessConfig | None = None,
    reporter: Reporter = SILENT,
) -> PreprocessReport:
    """Tokenize documents into token files. The number of workers does not change a byte.

    Raises:
        MccError: bad input, or `append_eod` with a vocabulary that has no such token; no file is written then.
    """
    config = config or PreprocessConfig()
    loaded = load_tokenizer(tokenizer)
    eod = loaded.require_eod() if config.append_eod else None
    keys = config.read.keys
    prefixes = {key: document_prefix(output_prefix, key) for key in keys}
    dtype = token_dtype(loaded.vocab_size)
    step = Step("preprocess", inputs, None, read=config.read, reporter=reporter)
    with ExitStack() as stack:
        stack.enter_context(step)
        writers = [stack.enter_context(IndexedWriter(prefixes[key], dtype)) for key in keys]
        make = partial(_encoder, loaded.source, eod)
        for batch in ordered_map(make, _batches(step, keys), config.workers):
            for writer, (flat, lengths) in zip(writers, batch, strict=True):
                _write(writer, flat, lengths)
    tokens = {key: writer.tokens for key, writer in zip(keys, writers, strict=True)}
    if not any(tokens.values()):
        reporter.warn(f"preprocess: {step.documents_in} documents without tokens")
    files = tuple(f"{prefix}{ending}" for prefix in prefixes.values() for ending in (".bin", ".idx"))
    return step.report(
        PreprocessReport,
        documents_out=step.documents_in,
        outputs=files,
        tokens=tokens,
        prefixes={key: str(prefix) for key, prefix in prefixes.items()},
        vocab_size=loaded.vocab_size,
        dtype=str(dtype),
    )


def _write(writer: IndexedWriter, flat: NDArray[Any], lengths: list[int]) -> None:
    if all(lengths):
        writer.add_many(flat, lengths)
        return
    start = 0
    for length in lengths:
        # A document without tokens has no sequence, but it is a document (as in Megatron-LM).
        if length:
            writer.add(flat[start : start + length])
        else:
            writer.end_document()
        start += length


def _batches(step: Step, keys: Sequence[str]) -> Iterator[list[list[str]]]:
    """Texts by key, then document."""
    texts: list[list[str]] = [[] for _ in keys]
    chars = 0
    for record in step.records():
        for column, key in zip(texts, keys, strict=True):
            column.append(record[key])
            chars += len(record[key])
        if chars >= _BATCH_CHARS or len(texts[0]) >= _BATCH_DOCUMENTS:
            yield texts
            texts, chars = [[] for _ in keys], 0
    if texts[0]:
        yield texts


def _encoder(source: Path, eod: int | None) -> Callable[[list[list[str]]], list[Encoded]]:
    """`encode_batch` with the tokenizer of `source`, for a worker process."""
    return partial(encode_batch, load_tokenizer(source), eod)
