"""Raw text to token files: read, clean, deduplicate, hold out, decontaminate, shuffle, tokenize, binarise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mcc.core.errors import MccError
from mcc.core.events import Reporter
from mcc.data.base.step import RecordWriter, StepReport
from mcc.data.cloze import ClozeConfig, cloze
from mcc.data.corpus import python_corpus, read_corpus
from mcc.data.decontaminate import DecontaminateConfig, TaskFile, decontaminate
from mcc.data.dedup import dedup
from mcc.data.filtering import CleanConfig, clean
from mcc.data.holdout import HoldOutConfig, hold_out
from mcc.data.indexed import IndexedDataset
from mcc.data.preprocess import PreprocessConfig, preprocess
from mcc.data.shuffle import ShuffleConfig, shuffle
from mcc.data.statistics import unigram_entropy
from mcc.data.tokenizer import TokenizerConfig, train_tokenizer
from mcc.quickstart.config import QuickstartConfig

_MIN_CHARS = 200
# A small model predicts small words: any word of two letters is asked for, and a small corpus gives enough passages.
_MIN_LETTERS, _PER_DOCUMENT = 2, 12


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The files that training and scoring take, and the counts of the summary."""

    train: str
    held_out: str
    held_out_text: Path
    cloze: Path
    docs_in: int
    docs_kept: int
    tokens: int
    unigram_entropy: float


def prepare(config: QuickstartConfig, reporter: Reporter) -> Prepared:
    """Run the data steps in `OUT/data`.

    Raises:
        MccError: the corpus is missing, malformed, empty, or too small.
    """
    folder = config.folder / "data"

    def done(report: StepReport, what: str) -> None:
        reporter.note(f"{report.step}: {what} ({report.seconds:.1f} s)")

    docs_in = _read(config, folder / "raw.jsonl", reporter)
    cleaning = CleanConfig(
        filters=("ftfy", "whitespace", "language", "min-chars"), options={"min-chars": {"chars": _MIN_CHARS}}
    )
    cleaned = clean([folder / "raw.jsonl"], folder / "clean.jsonl", cleaning, reporter)
    done(cleaned, f"{cleaned.documents_out} of {cleaned.documents_in} documents kept")
    deduped = dedup([folder / "clean.jsonl"], folder / "dedup.jsonl", reporter=reporter)
    done(deduped, f"{deduped.removed} near-duplicates removed")
    apart = hold_out(
        [folder / "dedup.jsonl"],
        folder / "pool.jsonl",
        folder / "heldout.jsonl",
        HoldOutConfig(seed=config.seed),
        reporter,
    )
    done(apart, f"{apart.held_out} documents set aside")
    task = folder / "cloze.jsonl"
    made = cloze(
        [folder / "heldout.jsonl"],
        task,
        ClozeConfig(seed=config.seed, min_letters=_MIN_LETTERS, per_document=_PER_DOCUMENT),
    )  # fewer passages than asked for are no warning here
    done(made, f"{made.documents_out} passages")
    against = DecontaminateConfig(tasks=(TaskFile(name="lambada", path=str(task)),))
    decontaminated = decontaminate([folder / "pool.jsonl"], folder / "decontaminated.jsonl", against, reporter)
    done(
        decontaminated, f"{decontaminated.documents_out} documents, {sum(decontaminated.matched.values())} n-grams cut"
    )
    order = ShuffleConfig(seed=config.seed)
    shuffled = shuffle([folder / "decontaminated.jsonl"], folder / "train.jsonl", order, reporter)
    done(shuffled, f"{shuffled.documents_out} documents")
    tokenizer = folder / "tokenizer.json"
    learnt = train_tokenizer(
        [folder / "train.jsonl"], tokenizer, TokenizerConfig(vocab_size=config.vocab_size), reporter
    )
    done(learnt, f"{learnt.vocab_size} tokens")
    prefixes = {}
    for name in ("train", "heldout"):
        binarised = preprocess(
            [folder / f"{name}.jsonl"], folder / name, tokenizer, PreprocessConfig(append_eod=True), reporter
        )
        prefixes[name] = binarised.prefixes["text"]
        done(binarised, f"{binarised.tokens['text']} {name} tokens")
    dataset = IndexedDataset(prefixes["train"])
    return Prepared(
        train=prefixes["train"],
        held_out=prefixes["heldout"],
        held_out_text=folder / "heldout.jsonl",
        cloze=task,
        docs_in=docs_in,
        docs_kept=shuffled.documents_out,
        tokens=dataset.tokens,
        unigram_entropy=unigram_entropy(dataset),
    )


def _read(config: QuickstartConfig, output: Path, reporter: Reporter) -> int:
    """Write the corpus as JSON lines; the number of documents."""
    records = read_corpus(config.corpus) if config.corpus else python_corpus()
    count = 0
    with RecordWriter(output) as writer, reporter.task("read", unit="documents") as task:
        for record in records:
            writer.write(record)
            count += 1
            task.advance()
        if not count:
            raise MccError("the corpus has no documents", "give files with text")
    source = ", ".join(config.corpus) if config.corpus else "Python's documentation"
    reporter.note(f"read: {count} documents from {source}")
    return count
