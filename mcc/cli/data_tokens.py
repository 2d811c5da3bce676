"""The commands of `mcc data` about tokens: train a tokenizer, write token files, look into them."""

from __future__ import annotations

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
    vocab_size: Annotated[int | None, typer.Option(help="Tokens in the vocabulary \\[default: 4096].")] = None,
    min_frequency: Annotated[int | None, typer.Option(help="Least count of a merged pair \\[default: 2].")] = None,
    text_key: steps.TextKey = None,
    on_error: steps.OnError = None,
    max_errors: steps.MaxErrors = None,
    as_json: console.JSON = False,
) -> None:
    """Train a byte-level BPE tokenizer (GPT-2's kind) with the token <|endoftext|>.

    Example: [cyan]mcc data tokenizer shuffled.jsonl -o tokenizer.json --vocab-size 8192[/]
    """
    from mcc.data.tokenizer import TokenizerConfig, train_tokenizer

    values = steps.given(vocab_size=vocab_size, min_frequency=min_frequency)
    values["read"] = steps.read((text_key,) if text_key else None, on_error, max_errors)
    report = train_tokenizer(inputs, output, build(TokenizerConfig, values), console.reporter())
    steps.show(report, as_json, ("characters", report.chars_in), ("vocabulary", report.vocab_size))


@app.command()
def preprocess(
    inputs: steps.Inputs,
    output_prefix: Annotated[Path, typer.Option(metavar="PREFIX", help="Files are PREFIX_KEY_document.bin/.idx.")],
    tokenizer: Annotated[
        Path,
        typer.Option(metavar="PATH", help="tokenizer.json, its folder, or GPT-2's vocab.json + merges.txt in one."),
    ],
    append_eod: Annotated[bool, typer.Option("--append-eod", help="End every document with its end token.")] = False,
    workers: steps.Workers = None,
    json_keys: Annotated[
        list[str] | None,
        typer.Option(metavar="A,B", help="Keys to tokenize, each into files of its own \\[default: text]."),
    ] = None,
    on_error: steps.OnError = None,
    max_errors: steps.MaxErrors = None,
    as_json: console.JSON = False,
) -> None:
    """Tokenize documents into Megatron-LM's .bin/.idx files, byte for byte as Megatron-LM writes them.

    Example: [cyan]mcc data preprocess in.jsonl --output-prefix data/wiki --tokenizer tokenizer.json --append-eod[/]
    """
    from mcc.data.preprocess import PreprocessConfig, preprocess

    values = steps.given(append_eod=append_eod, workers=workers)
    values["read"] = steps.read(steps.words(json_keys), on_error, max_errors)
    report = preprocess(inputs, output_prefix, tokenizer, build(PreprocessConfig, values), console.reporter())
    tokens = [(f"tokens: {key}", count) for key, count in report.tokens.items()]
    steps.show(report, as_json, *tokens, ("vocabulary", report.vocab_size), ("stored as", report.dtype))


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
    console.table(str(prefix), ["", ""], [(name.replace("_", " "), console.cell(v)) for name, v in summary.items()])
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
