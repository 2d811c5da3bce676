"""The commands of `mcc data` about tokens: train a tokenizer, write token files, look into them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mcc.cli import console
from mcc.cli import data_steps as steps
from mcc.core.config import build
from mcc.core.errors import UsageError

if TYPE_CHECKING:
    from mcc.data.indexed import IndexedDataset

app = typer.Typer(rich_markup_mode="rich")


@app.command()
def tokenizer(
    inputs: steps.Inputs,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="OUT", help="A .json file, or a folder for tokenizer.json.")
    ],
    model: Annotated[
        str | None,
        typer.Option(metavar="bpe|wordpiece", help="Byte-level BPE (GPT-2), or word pieces (BERT) \\[default: bpe]."),
    ] = None,
    vocab_size: Annotated[int | None, typer.Option(help="Tokens in the vocabulary \\[default: 4096].")] = None,
    min_frequency: Annotated[int | None, typer.Option(help="Least count of a merged pair \\[default: 2].")] = None,
    lowercase: Annotated[
        bool, typer.Option("--lowercase", help="Word pieces without case and accents (bert-base-uncased).")
    ] = False,
    max_words: Annotated[
        int | None,
        typer.Option(help="Distinct words in memory; of more, rare ones are sampled \\[default: 200000]."),
    ] = None,
    workers: steps.Workers = None,
    text_key: steps.TextKey = None,
    on_error: steps.OnError = None,
    max_errors: steps.MaxErrors = None,
    as_json: console.JSON = False,
) -> None:
    """Train a tokenizer: byte-level BPE (GPT-2's kind) with the token <|endoftext|>, or BERT's word pieces.

    Word pieces give vocab.txt beside the .json file too. The same documents give the same files.

    Example: [cyan]mcc data tokenizer shuffled.jsonl -o tokenizer.json --vocab-size 8192[/]

    Example: [cyan]mcc data tokenizer shuffled.jsonl -o bert --model wordpiece --vocab-size 30522 --lowercase[/]
    """
    from mcc.data.tokenizer import TokenizerConfig, train_tokenizer

    values = steps.given(
        model=model,
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        lowercase=lowercase or None,
        max_words=max_words,
        workers=workers,
    )
    values["read"] = steps.read((text_key,) if text_key else None, on_error, max_errors)
    report = train_tokenizer(inputs, output, build(TokenizerConfig, values), console.reporter())
    steps.show(report, as_json, ("characters", report.chars_in), ("vocabulary", report.vocab_size))


@app.command()
def preprocess(
    output_prefix: Annotated[Path, typer.Option(metavar="PREFIX", help="Files are PREFIX_KEY_document.bin/.idx.")],
    inputs: Annotated[
        list[Path] | None, typer.Argument(metavar="IN...", help="Files to read, in order.", show_default=False)
    ] = None,
    input_files: Annotated[
        list[Path] | None, typer.Option("--input", metavar="IN", help="The same, under Megatron-LM's name.")
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            "--tokenizer",
            "--tokenizer-model",
            metavar="PATH",
            help="tokenizer.json, its folder or transformers', GPT-2's folder, or BERT's vocab.txt.",
        ),
    ] = None,
    vocab_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="GPT-2's vocab.json (with --merge-file) or BERT's vocab.txt.")
    ] = None,
    merge_file: Annotated[Path | None, typer.Option(metavar="FILE", help="GPT-2's merges.txt.")] = None,
    tokenizer_type: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE",
            help="HuggingFaceTokenizer, GPT2BPETokenizer, BertWordPieceLowerCase or BertWordPieceCase "
            "\\[default: seen from the files].",
        ),
    ] = None,
    special_tokens: Annotated[
        bool | None,
        typer.Option(
            "--special-tokens/--no-special-tokens",
            " /--tokenizer-hf-no-include-special-tokens",
            help="Put the tokenizer's special tokens around every text "
            "\\[default: HuggingFaceTokenizer yes, the others no].",
            show_default=False,
        ),
    ] = None,
    json_keys: Annotated[
        list[str] | None,
        typer.Option(metavar="A,B", help="Keys to tokenize, each into files of its own \\[default: text]."),
    ] = None,
    append_eod: Annotated[bool, typer.Option("--append-eod", help="End every document with its end token.")] = False,
    split_sentences: Annotated[
        bool, typer.Option("--split-sentences", help="A sequence a sentence: PREFIX_KEY_sentence.bin/.idx.")
    ] = False,
    keep_newlines: Annotated[bool, typer.Option("--keep-newlines", help="Keep white space between sentences.")] = False,
    lang: Annotated[str | None, typer.Option(help="Language of the sentences \\[default: english].")] = None,
    sentence_splitter: Annotated[
        str | None, typer.Option(metavar="punkt|sentencex", help="sentencex needs no download \\[default: punkt].")
    ] = None,
    punkt: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Punkt's parameters \\[default: NLTK's data folders].")
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(metavar="auto|fastokens|tokenizers|words", help="What tokenizes; the ids are the same."),
    ] = None,
    dataset_impl: Annotated[str, typer.Option(metavar="mmap", help="Layout of the files; mmap is written.")] = "mmap",
    workers: steps.Workers = None,
    rejects: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where bad lines go \\[default: PREFIX.rejects.jsonl].")
    ] = None,
    on_error: steps.OnError = None,
    max_errors: steps.MaxErrors = None,
    as_json: console.JSON = False,
) -> None:
    """Tokenize documents into Megatron-LM's .bin/.idx files, byte for byte as Megatron-LM writes them.

    Killed and started again, it goes on. Megatron-LM's --partitions are not needed: --workers do not change a byte.

    Example: [cyan]mcc data preprocess in.jsonl --output-prefix data/wiki --tokenizer tokenizer.json --append-eod[/]

    Example: [cyan]mcc data preprocess --input in.jsonl --output-prefix data/bert --vocab-file vocab.txt
    --tokenizer-type BertWordPieceLowerCase --split-sentences --workers 4[/]
    """
    from mcc.data.preprocess import PreprocessConfig, preprocess
    from mcc.data.tokens.vocabulary import TokenizerFiles

    if dataset_impl != "mmap":
        raise UsageError(f"--dataset-impl {dataset_impl}: only mmap is written", "cached and lazy files can be read")
    keys = steps.words(json_keys)
    if input_files and keys:
        # Megatron-LM's --json-keys takes several words; the second and later ones arrive as inputs.
        more = [path for path in inputs or [] if re.fullmatch(r"[\w-]+", str(path)) and not path.exists()]
        inputs = [path for path in inputs or [] if path not in more]
        keys += tuple(map(str, more))
    paths = [*(inputs or []), *(input_files or [])]
    if not paths:
        raise UsageError("nothing to read", "give files, or --input FILE")
    sentences = steps.given(
        splitter=sentence_splitter, lang=lang, keep_newlines=keep_newlines or None, punkt=_text(punkt)
    )
    if sentences and not split_sentences:
        raise UsageError("options for sentences without --split-sentences", "add --split-sentences")
    values = steps.given(append_eod=append_eod, workers=workers, engine=engine)
    if split_sentences:
        values["sentences"] = sentences
    values["read"] = steps.read(keys, on_error, max_errors)
    files = TokenizerFiles(
        model=_text(tokenizer),
        vocab_file=_text(vocab_file),
        merge_file=_text(merge_file),
        kind=tokenizer_type,
        special_tokens=special_tokens,
    )
    report = preprocess(paths, output_prefix, files, build(PreprocessConfig, values), console.reporter(), rejects)
    tokens = [(f"tokens: {key}", count) for key, count in report.tokens.items()]
    tokens += [(f"sentences: {key}", count) for key, count in report.sequences.items() if split_sentences]
    about = [("vocabulary", report.vocab_size), ("stored as", report.dtype), ("engine", report.engine)]
    steps.show(report, as_json, *tokens, *about)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


@app.command()
def merge(
    output_prefix: Annotated[Path, typer.Option(metavar="PREFIX", help="Of the files to write.")],
    prefixes: Annotated[
        list[Path] | None, typer.Argument(metavar="PREFIX...", help="Token files to join, in order.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--input", metavar="FOLDER", help="Join all token files of a folder, by name.")
    ] = None,
    as_json: console.JSON = False,
) -> None:
    """Join token files, as Megatron-LM's merge_datasets.py does.

    Example: [cyan]mcc data merge part0_text_document part1_text_document --output-prefix all_text_document[/]
    """
    from mcc.data.merge import merge, prefixes_in

    if (not prefixes) == (folder is None):
        raise UsageError("give prefixes, or --input FOLDER")
    found = prefixes_in(folder) if folder is not None else list(prefixes or [])
    report = merge(found, output_prefix, console.reporter())
    if as_json:
        console.print_json(report)
        return
    rows = [("sources", len(report.sources)), ("documents", report.documents), ("sequences", report.sequences)]
    rows += [("tokens", report.tokens)]
    shown = [(name, console.cell(value)) for name, value in rows]
    shown += [("stored as", report.dtype), ("wrote", report.prefix + ".bin"), ("wrote", report.prefix + ".idx")]
    console.table("merge", ["", ""], shown)


@app.command()
def verify(
    prefixes: Annotated[
        list[Path], typer.Argument(metavar="PREFIX...", help="Paths of .bin and .idx files, without ending.")
    ],
    vocab_size: Annotated[int | None, typer.Option(min=1, help="Every token must be below this.")] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Every token must be in this tokenizer's vocabulary.")
    ] = None,
    as_json: console.JSON = False,
) -> None:
    """Check token files to the last number: structure, bounds, every pointer, every token. Exit code 1 if one is wrong.

    Example: [cyan]mcc data verify data/wiki_text_document --tokenizer tokenizer.json[/]
    """
    from mcc.data.verify import verify

    if vocab_size is not None and tokenizer is not None:
        raise UsageError("--vocab-size and --tokenizer say the same", "give one")
    if tokenizer is not None:
        from mcc.data.tokens.vocabulary import load_tokenizer

        vocab_size = load_tokenizer(tokenizer).largest_id + 1
    reports = [verify(prefix, vocab_size, console.reporter()) for prefix in prefixes]
    if as_json:
        console.print_json(reports)
        return
    columns = ["prefix", "layout", "dtype", "documents", "sequences", "tokens", "largest token", ""]
    rows = [
        (r.prefix, r.layout, r.dtype, r.documents, r.sequences, r.tokens, r.largest_token, "whole") for r in reports
    ]
    console.table("verify", columns, rows)


@app.command()
def inspect(
    prefix: Annotated[Path, typer.Argument(metavar="PREFIX", help="Path of the .bin and .idx files, without ending.")],
    doc: Annotated[int | None, typer.Option(metavar="N", help="Show document N too (from 0).")] = None,
    decode: Annotated[Path | None, typer.Option(metavar="TOKENIZER", help="Show tokens as text.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a document that are shown.")] = 64,
    as_json: console.JSON = False,
) -> None:
    """Show what token files hold: counts, lengths, and documents as ids or as text. Checks every pointer.

    Example: [cyan]mcc data inspect data/wiki_text_document --doc 0 --decode tokenizer.json[/]
    """
    from mcc.data.indexed import IndexedDataset
    from mcc.data.statistics import length_histogram, unigram_entropy

    dataset = IndexedDataset(prefix)
    dataset.verify()
    if decode is not None and doc is None:
        doc = 0
    tokens = dataset.tokens
    summary: dict[str, Any] = {
        "prefix": str(dataset.prefix),
        "documents": dataset.documents,
        "sequences": len(dataset),
        "tokens": tokens,
        "dtype": str(dataset.dtype),
        "bytes": tokens * dataset.dtype.itemsize,
        "shortest": int(dataset.sizes.min()) if len(dataset) else None,
        "mean_length": tokens / len(dataset) if len(dataset) else None,
        "longest": int(dataset.sizes.max()) if len(dataset) else None,
        "unigram_entropy_nats": unigram_entropy(dataset) if tokens else None,
    }
    histogram = length_histogram(dataset)
    shown = None if doc is None else _document(dataset, doc, decode, max_tokens)
    if as_json:
        bins = [{"from": low, "below": high, "sequences": count} for low, high, count in histogram]
        console.print_json({**summary, "lengths": bins, **({} if shown is None else {"document": shown})})
        return
    shown_rows = [(name.replace("_", " "), console.cell(v)) for name, v in summary.items() if name != "prefix"]
    console.table(str(prefix), ["", ""], shown_rows)
    most = max((count for *_, count in histogram), default=1)
    rows = [(f"{low:,} - {high - 1:,}", count, "█" * round(40 * count / most)) for low, high, count in histogram]
    console.table("lengths in tokens", ["tokens", "sequences", ""], rows)
    if shown is not None:
        print(f"document {shown['document']}: {shown['length']:,} tokens")
        print(shown["text"] if shown["text"] is not None else " ".join(map(str, shown["tokens"])))


def _document(dataset: IndexedDataset, doc: int, decode: Path | None, max_tokens: int) -> dict[str, Any]:
    """The first tokens of a document, and their text when a tokenizer is given."""
    import numpy as np

    from mcc.core.errors import MccError

    if not 0 <= doc < dataset.documents:
        raise UsageError(f"no document {doc} in {dataset.prefix}", f"there are {dataset.documents}, from 0")
    sequences = range(int(dataset.doc_idx[doc]), int(dataset.doc_idx[doc + 1]))
    ids = np.concatenate([dataset[i] for i in sequences]) if len(sequences) else np.empty(0, dtype=dataset.dtype)
    text = None
    if decode is not None:
        from mcc.data.tokenizer import load_tokenizer

        tokenizer = load_tokenizer(decode)
        if len(ids) and int(ids.max()) >= tokenizer.vocab_size:
            raise MccError(
                f"token {int(ids.max())} of document {doc} is not in {decode} ({tokenizer.vocab_size} tokens)",
                "give the tokenizer that wrote the file",
            )
        text = tokenizer.decode(ids[:max_tokens].tolist())
    return {"document": doc, "length": len(ids), "tokens": ids[:max_tokens].tolist(), "text": text}
