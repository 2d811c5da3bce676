"""Documents to Megatron-LM's token files: `PREFIX_KEY_document.bin/.idx`, byte for byte what Megatron-LM writes.

Two defects of some forks are not copied: with `append_eod` the end-of-document token counts in the sizes, and every
key's index is written. What stays: a document without tokens is a document without sequences and gets no end token.
"""

# S sequences (sentences or documents) of a block, D documents of a block

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcc.core.config import option
from mcc.core.errors import MccError, UsageError
from mcc.core.events import SILENT, Reporter
from mcc.data.base.blocks import Block, RecordSource
from mcc.data.base.job import Job, Map, Single, run, step_report
from mcc.data.base.part import Part
from mcc.data.base.publish import Output
from mcc.data.base.records import ReadConfig
from mcc.data.base.step import StepReport
from mcc.data.base.work import Work
from mcc.data.base.workers import Workers
from mcc.data.indexed import bin_path, index_path, token_dtype
from mcc.data.text.sentences import SentenceConfig
from mcc.data.tokens.engines import (
    ENGINES,
    Engine,
    EngineMismatch,
    TokenizersEngine,
    TransformersEngine,
    check,
    choose_engine,
    make_engine,
    sample,
)
from mcc.data.tokens.index_file import numbers, write_index
from mcc.data.tokens.vocabulary import TextTokenizer, TokenizerFiles

_ENCODE = "encode"
# Characters that are handed to the engine at once.
_BATCH_CHARS = 1 << 19
# Documents of so many tokens are copied one by one.
_LONG = 64


@dataclass(frozen=True, kw_only=True)
class PreprocessConfig:
    """What is written. `read.keys` are the keys to take; each gets files of its own.

    Raises:
        UsageError: `workers` is not positive or the engine unknown.
    """

    append_eod: bool = option(False, "end every document with the end-of-document token")
    workers: int = option(1, "processes that tokenize")
    engine: str = option("auto", "what tokenizes: auto, fastokens, tokenizers or words; the ids are the same")
    sentences: SentenceConfig | None = option(None, "cut documents into sentences, a sequence each")
    read: ReadConfig = field(default_factory=ReadConfig)

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise UsageError(f"workers = {self.workers} must be at least 1")
        if self.engine not in ENGINES:
            raise UsageError(f"engine = {self.engine!r}", f"one of {', '.join(ENGINES)}")
        if len(set(self.read.keys)) < len(self.read.keys):
            raise UsageError(f"a key stands twice in {', '.join(self.read.keys)}", "name each once")


@dataclass(frozen=True, kw_only=True)
class PreprocessReport(StepReport):
    """`tokens` and `sequences` by key, with the end-of-document tokens; `prefixes` are what training takes."""

    tokens: dict[str, int]
    sequences: dict[str, int]
    prefixes: dict[str, str]
    vocab_size: int
    dtype: str
    engine: str


def document_prefix(prefix: str | Path, key: str = "text", level: str = "document") -> Path:
    """The prefix of the files for `key`.

    >>> str(document_prefix("out/wiki"))
    'out/wiki_text_document'
    """
    return Path(f"{prefix}_{key}_{level}")


def preprocess(
    inputs: Sequence[str | Path],
    output_prefix: str | Path,
    tokenizer: str | Path | TokenizerFiles,
    config: PreprocessConfig | None = None,
    reporter: Reporter = SILENT,
    rejects: Path | None = None,
) -> PreprocessReport:
    """Tokenize documents into token files. The number of workers and the engine do not change a byte.

    Raises:
        MccError: bad input, or `append_eod` with a vocabulary that has no such token; no file is written then.
    """
    config = config or PreprocessConfig()

    def attempt(config: PreprocessConfig) -> PreprocessReport:
        with Workers(config.workers) as workers:
            # It takes as long as to load the tokenizer here.
            workers.start(__name__)
            return run(preprocess_job(inputs, output_prefix, tokenizer, config, reporter, rejects), workers, reporter)

    try:
        report = attempt(config)
    except EngineFailure as failure:
        if config.engine != "auto":
            raise
        reporter.warn(f"{failure.what}; all is done again with the engine tokenizers")
        report = attempt(replace(config, engine=TokenizersEngine.name))
    if report.documents_in and not any(report.tokens.values()):
        reporter.warn(f"preprocess: {report.documents_in} documents without tokens")
    return report


class EngineFailure(MccError):
    """A fast engine gave wrong ids in the middle of a run."""


def preprocess_job(
    inputs: Sequence[str | Path],
    output_prefix: str | Path,
    tokenizer: str | Path | TokenizerFiles,
    config: PreprocessConfig | None = None,
    reporter: Reporter = SILENT,
    rejects: Path | None = None,
) -> Job[PreprocessReport]:
    """`preprocess` as a job, for any number of machines.

    Raises:
        MccError, UsageError: as `preprocess`, for what can be seen before the first document.
    """
    config = config or PreprocessConfig()
    files = tokenizer if isinstance(tokenizer, TokenizerFiles) else TokenizerFiles(model=str(tokenizer))
    loaded = files.read()
    eod = loaded.require_eod() if config.append_eod else None
    engine, why = choose_engine(config.engine, loaded)
    if why:
        reporter.note(f"preprocess: engine {engine.name} ({why})")
    dtype = token_dtype(loaded.vocab_size)
    if loaded.largest_id > np.iinfo(dtype).max:
        raise MccError(
            f"{loaded.source}: token {loaded.largest_id} does not fit {dtype}, which Megatron-LM stores "
            f"{loaded.vocab_size} tokens in",
            "a vocabulary without holes",
        )
    if config.sentences is not None:
        config.sentences.load()  # complain now, not in a worker
    keys = config.read.keys
    level = "document" if config.sentences is None else "sentence"
    prefixes = [document_prefix(output_prefix, key, level) for key in keys]
    rejects = rejects or Path(f"{output_prefix}.rejects.jsonl")
    outputs = [Output(rejects, phase=_ENCODE, stream="rejects", optional=True)]
    for i, prefix in enumerate(prefixes):
        # The index that makes the tokens readable comes last.
        outputs += [
            Output(bin_path(prefix), phase=_ENCODE, stream=f"tokens{i}"),
            Output(index_path(prefix), file=f"{i}.idx"),
        ]
    streams: dict[str, Path | None] = {"rejects": rejects}
    streams |= {f"{name}{i}": None for i in range(len(keys)) for name in ("tokens", "sizes", "documents")}

    def report(counts: Counter[str], work: Work) -> PreprocessReport:
        # It names the last first: here the files of the first key.
        shown = [outputs[0], *reversed(outputs[1:])]
        return step_report(
            PreprocessReport,
            "preprocess",
            {**counts, "documents_out": counts["documents_in"]},
            work,
            shown,
            config.read.max_errors,
            tokens={key: counts[f"tokens:{key}"] for key in keys},
            sequences={key: counts[f"sequences:{key}"] for key in keys},
            prefixes={key: str(prefix) for key, prefix in zip(keys, prefixes, strict=True)},
            vocab_size=loaded.vocab_size,
            dtype=str(dtype),
            engine=engine.name,
        )

    return Job(
        name="preprocess",
        output=index_path(prefixes[0]),
        # The engine is left out: it does not change a byte.
        key=[config.append_eod, repr(config.sentences), loaded.special, _fingerprint(loaded), str(output_prefix)],
        phases=(
            Map(
                name=_ENCODE,
                source=RecordSource(inputs, config.read),
                make=_Encoder(loaded, engine, eod, config),
                streams=streams,
            ),
            Single(name="index", run=partial(_write_indices, keys, dtype)),
        ),
        outputs=outputs,
        report=report,
        inputs=[path for path in (loaded.source,) if path.is_file()],
    )


def _fingerprint(tokenizer: TextTokenizer) -> str:
    return hashlib.sha256(f"{tokenizer.layout} {tokenizer.eod}".encode()).hexdigest()


class _Encoder:
    """What a process does to its blocks; in another process the engine is made anew."""

    def __init__(self, tokenizer: TextTokenizer, engine: Engine, eod: int | None, config: PreprocessConfig) -> None:
        self.tokenizer, self.engine, self.eod, self.config = tokenizer, engine, eod, config
        self.trusted = engine.name in (TokenizersEngine.name, TransformersEngine.name)
        self.split = config.sentences.load() if config.sentences is not None else None
        self.dtype = token_dtype(tokenizer.vocab_size)

    def __reduce__(self) -> tuple[Any, ...]:
        packed = (type(self.tokenizer), self.tokenizer.backend, self.tokenizer.source, self.tokenizer.eod)
        return _unpacked, (packed, self.tokenizer.special, self.engine.name, self.eod, self.config)

    def __call__(self, work: Work) -> Callable[[Block, Part], None]:
        return self.apply

    def apply(self, block: Block, out: Part) -> None:
        """Tokenize the records of a block."""
        keys = self.config.read.keys
        texts: list[list[str]] = [[] for _ in keys]
        for _, record in block.records(self.config.read, out):
            for column, key in zip(texts, keys, strict=True):
                column.append(record[key])
        for i, (key, column) in enumerate(zip(keys, texts, strict=True)):
            if not self.trusted:
                self._check(column, block)
            tokens, sizes, documents = assemble(*self._encode(column), self.eod)
            out.write_bytes(f"tokens{i}", tokens.tobytes())
            out.write_bytes(f"sizes{i}", sizes.astype("<i4").tobytes())
            out.write_bytes(f"documents{i}", documents.astype("<i4").tobytes())
            out.counts[f"tokens:{key}"] += len(tokens)
            out.counts[f"sequences:{key}"] += len(sizes)

    def _encode(self, texts: list[str]) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int64]]:
        """The tokens of some texts as they are stored, how many each of their sentences has, and the sentences of each
        text (a text is one where they are not split); some texts at a time, to save memory."""
        tokens: list[NDArray[Any]] = [np.empty(0, dtype=self.dtype)]
        lengths: list[NDArray[np.int64]] = [np.empty(0, dtype=np.int64)]
        counts = np.ones(len(texts), dtype=np.int64)
        start = chars = 0
        for end, text in enumerate(texts, 1):
            chars += len(text)
            if chars >= _BATCH_CHARS or end == len(texts):
                some = texts[start:end]
                if self.split is not None:
                    cut = [self.split(text) for text in some]
                    counts[start:end] = [len(sentences) for sentences in cut]
                    some = [sentence for sentences in cut for sentence in sentences]
                ids, each = self.engine.encode(some)
                tokens.append(ids.astype(self.dtype))
                lengths.append(each)
                start, chars = end, 0
        return np.concatenate(tokens), np.concatenate(lengths), counts

    def _check(self, texts: list[str], block: Block) -> None:
        try:
            check(self.engine, self.tokenizer, sample(texts, block.unit + block.part))
        except EngineMismatch as error:
            raise EngineFailure(error.what, error.hint) from error


def _unpacked(packed: tuple[Any, ...], special: bool, engine: str, eod: int | None, config: Any) -> _Encoder:
    kind, backend, source, end = packed
    tokenizer = kind(backend, source, end)
    tokenizer.special = special
    return _Encoder(tokenizer, make_engine(engine, tokenizer), eod, config)


def assemble(
    ids: NDArray[Any], lengths: NDArray[np.int64], counts: NDArray[np.int64], eod: int | None
) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int64]]:
    """The sequences of some documents by Megatron-LM's rules.

    Args:
        ids: tokens of all sentences end to end.
        lengths: int64[sentences], the tokens of each; those without any are no sequences.
        counts: int64[D], the sentences of each document.
        eod: put at the end of every document that has tokens, in its last sequence.

    Returns:
        (tokens, sizes int64[S], sequences of each document int64[D]).

    >>> assemble(np.array([5, 6, 7]), np.array([2, 0, 1]), np.array([2, 0, 1]), 9)
    (array([5, 6, 9, 7, 9]), array([3, 2]), array([1, 0, 1]))
    """
    filled = lengths > 0
    # Sentences with tokens before each document's end, then the difference.
    before = np.concatenate(([0], np.cumsum(filled)))[np.cumsum(counts)] if len(counts) else np.empty(0, np.int64)
    documents = np.diff(before, prepend=0).astype(np.int64)
    sizes = lengths[filled]
    if eod is None or not len(sizes):
        return ids, sizes, documents
    last = before[documents > 0] - 1
    sizes[last] += 1
    ends = np.cumsum(sizes)[last] - 1
    tokens = np.empty(len(ids) + len(ends), dtype=ids.dtype)
    if len(ends) * _LONG < len(ids):
        start = 0
        for number, end in enumerate(ends.tolist()):
            tokens[start:end] = ids[start - number : end - number]
            tokens[end] = eod
            start = end + 1
    else:
        kept = np.ones(len(tokens), dtype=bool)
        kept[ends] = False
        tokens[kept] = ids
        tokens[ends] = eod
    return tokens, sizes, documents


def _write_indices(keys: Sequence[str], dtype: np.dtype[Any], work: Work, reporter: Reporter) -> None:
    """Write the index of each key's tokens from the sizes that the blocks gave."""
    for i in range(len(keys)):
        sizes, documents = (partial(numbers, work.parts(_ENCODE, f"{name}{i}")) for name in ("sizes", "documents"))
        write_index(work.path(f"{i}.idx"), dtype, sizes, documents)
