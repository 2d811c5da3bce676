"""`mcc data index`: the sample indices of a training run, built ahead of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mcc.cli import console
from mcc.cli import data_steps as steps
from mcc.cli.blends import BlendCommand
from mcc.core.config import build
from mcc.core.errors import UsageError

app = typer.Typer(rich_markup_mode="rich")
_BERT = "BERT"


@app.command(cls=BlendCommand)
def index(
    data_path: Annotated[
        list[str],
        typer.Argument(metavar="PREFIX...", help="Path of .bin and .idx files, without ending; or WEIGHT PREFIX ..."),
    ],
    samples: Annotated[
        str | None,
        typer.Option(metavar="running|fixed", help="The same windows in every epoch, or not \\[default: running]."),
    ] = None,
    seq_length: Annotated[int | None, typer.Option(help="Tokens of a sample \\[default: 128].")] = None,
    train_iters: Annotated[int | None, typer.Option(help="Training steps of the run.")] = None,
    train_samples: Annotated[int | None, typer.Option(help="Samples that it trains on, in its place.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training documents, in its place.")] = None,
    eval_iters: Annotated[int | None, typer.Option(help="Steps of a held-out evaluation \\[default: 10].")] = None,
    global_batch_size: Annotated[int | None, typer.Option(help="Samples of a step \\[default: 16].")] = None,
    rampup_batch_size: Annotated[
        tuple[int, int, int] | None,
        typer.Option(metavar="START INCREMENT SAMPLES", help="The run's growing batch \\[default: none]."),
    ] = None,
    valid_data_path: Annotated[
        str | None,
        typer.Option(
            metavar="PREFIX", help="The run's held-out token files, in place of a split; or WEIGHT PREFIX ..."
        ),
    ] = None,
    seed: steps.Seed = None,
    split: Annotated[
        str | None, typer.Option(metavar="A,B,C", help="Weights of the parts \\[default: 949,50,1].")
    ] = None,
    all_documents: Annotated[bool, typer.Option("--all-documents", help="No split, and nothing held out.")] = False,
    data_cache_path: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where indices go \\[default: beside each token file].")
    ] = None,
    bert: Annotated[
        bool,
        typer.Option(
            "--bert", help="BERT's samples, of token files with a sequence a sentence.", rich_help_panel=_BERT
        ),
    ] = False,
    short_seq_prob: Annotated[
        float | None, typer.Option(help="Share of short samples \\[default: 0.1].", rich_help_panel=_BERT)
    ] = None,
    pairs: Annotated[
        str | None,
        typer.Option(
            "--bert-pairs", metavar="order|next|none", help="Second halves \\[default: order].", rich_help_panel=_BERT
        ),
    ] = None,
    as_json: console.JSON = False,
) -> None:
    """Build the sample indices of a training run beside the data; a run with the same settings takes them.

    Example: [cyan]mcc data index data/wiki_text_document --seq-length 1024 --train-iters 10000[/]

    Example: [cyan]mcc data index 0.7 data/wiki_text_document 0.3 data/books_text_document --train-iters 10000[/]

    Example: [cyan]mcc data index data/wiki_text_document --train-samples 90000 --valid-data-path data/news[/]

    Example: [cyan]mcc data index data/wiki_text_document --samples fixed --seq-length 256 --eval-iters 0[/]

    Example: [cyan]mcc data index data/wiki_text_sentence --bert --seq-length 512 --train-iters 10000[/]
    """
    import shlex

    from mcc.data.sample_index import IndexConfig, index

    masking = steps.given(short_seq_prob=short_seq_prob, pairs=pairs)
    if masking and not bert:
        raise UsageError("options for sentences without --bert", "add --bert")
    values = steps.given(
        kind="bert" if bert else None,
        samples=samples,
        seq_length=seq_length,
        train_iters=train_iters,
        train_samples=train_samples,
        rampup_batch_size=rampup_batch_size,
        valid_data_path=valid_data_path,
        epochs=epochs,
        eval_iters=eval_iters,
        global_batch_size=global_batch_size,
        seed=seed,
        split=split,
        all_documents=all_documents or None,
        data_cache_path=None if data_cache_path is None else str(data_cache_path),
        masking=masking or None,
    )
    report = index(shlex.join(data_path), build(IndexConfig, values), console.reporter())
    if as_json:
        console.print_json(report)
        return
    columns = ["part", "documents", "tokens", "epochs", "samples", "kept in"]
    rows = [(p.part, p.documents, p.tokens, p.epochs, p.samples, p.path) for p in report.parts]
    console.table("index", columns, rows)
