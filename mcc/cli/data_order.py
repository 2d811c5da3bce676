"""The commands of `mcc data` that put documents into order or set some aside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mcc.cli import console
from mcc.cli import data_steps as steps
from mcc.core.config import build

app = typer.Typer(rich_markup_mode="rich")


@app.command()
def shuffle(
    inputs: steps.Inputs,
    output: steps.Output,
    seed: steps.Seed = None,
    bucket_bytes: Annotated[int | None, typer.Option(help="Text in memory at once \\[default: 67108864].")] = None,
    text_key: steps.TextKey = None,
    on_error: steps.OnError = None,
    max_errors: steps.MaxErrors = None,
    as_json: console.JSON = False,
) -> None:
    """Put documents into a random order, however many there are; the same seed gives the same order.

    Example: [cyan]mcc data shuffle train.jsonl -o shuffled.jsonl --seed 1234[/]
    """
    from mcc.data.shuffle import ShuffleConfig, shuffle

    values = steps.given(seed=seed, bucket_bytes=bucket_bytes)
    values["read"] = steps.read((text_key,) if text_key else None, on_error, max_errors)
    report = shuffle(inputs, output, build(ShuffleConfig, values), console.reporter())
    steps.show(report, as_json, ("documents out", report.documents_out))


@app.command()
def holdout(
    inputs: steps.Inputs,
    output: steps.Output,
    held_out: Annotated[Path, typer.Option(metavar="FILE", help="File for the documents that are set aside.")],
    share: Annotated[float | None, typer.Option(help="Share that is set aside \\[default: 0.05].")] = None,
    seed: steps.Seed = None,
    text_key: steps.TextKey = None,
    on_error: steps.OnError = None,
    max_errors: steps.MaxErrors = None,
    as_json: console.JSON = False,
) -> None:
    """Set documents aside to measure on. A document's text and the seed decide, so the order does not matter.

    Example: [cyan]mcc data holdout dedup.jsonl -o pool.jsonl --held-out heldout.jsonl --share 0.05[/]
    """
    from mcc.data.holdout import HoldOutConfig, hold_out

    values = steps.given(share=share, seed=seed)
    values["read"] = steps.read((text_key,) if text_key else None, on_error, max_errors)
    report = hold_out(inputs, output, held_out, build(HoldOutConfig, values), console.reporter())
    steps.show(report, as_json, ("documents out", report.documents_out), ("held out", report.held_out))


@app.command()
def cloze(
    inputs: steps.Inputs,
    output: steps.Output,
    count: Annotated[int | None, typer.Option(help="Passages to make \\[default: 300].")] = None,
    min_words: Annotated[int | None, typer.Option(help="Words of the shortest passage \\[default: 20].")] = None,
    max_words: Annotated[int | None, typer.Option(help="Words of the longest passage \\[default: 60].")] = None,
    min_letters: Annotated[int | None, typer.Option(help="Letters of the shortest target \\[default: 4].")] = None,
    per_document: Annotated[int | None, typer.Option(help="Passages of one document, at most \\[default: 4].")] = None,
    seed: steps.Seed = None,
    text_key: steps.TextKey = None,
    on_error: steps.OnError = None,
    max_errors: steps.MaxErrors = None,
    as_json: console.JSON = False,
) -> None:
    """Make a cloze task in LAMBADA's format from held-out documents: predict the last word, seen before in the passage.

    Example: [cyan]mcc data cloze heldout.jsonl -o cloze.jsonl --count 300 --max-words 60[/]
    """
    from mcc.data.cloze import ClozeConfig, cloze

    values = steps.given(
        count=count,
        min_words=min_words,
        max_words=max_words,
        min_letters=min_letters,
        per_document=per_document,
        seed=seed,
    )
    values["read"] = steps.read((text_key,) if text_key else None, on_error, max_errors)
    report = cloze(inputs, output, build(ClozeConfig, values), console.reporter())
    steps.show(report, as_json, ("candidates", report.candidates), ("passages", report.documents_out))
