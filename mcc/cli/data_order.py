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
    bucket_bytes: Annotated[
        int | None, typer.Option(help="Text that a process sorts at once \\[default: 4194304].")
    ] = None,
    workers: steps.Workers = None,
    rejects: steps.Rejects = None,
    text_key: steps.TextKey = None,
    on_error: steps.OnError = None,
    max_errors: steps.MaxErrors = None,
    as_json: console.JSON = False,
) -> None:
    """Put documents into a random order, however many there are; the same seed and files give the same order.

    Example: [cyan]mcc data shuffle train.jsonl -o shuffled.jsonl --seed 1234[/]
    """
    from mcc.data.shuffle import ShuffleConfig, shuffle

    values = steps.given(seed=seed, bucket_bytes=bucket_bytes, workers=workers)
    values["read"] = steps.read((text_key,) if text_key else None, on_error, max_errors)
    report = shuffle(inputs, output, build(ShuffleConfig, values), console.reporter(), rejects)
    steps.show(report, as_json, ("documents out", report.documents_out))


@app.command()
def holdout(
    inputs: steps.Inputs,
    output: steps.Output,
    held_out: Annotated[Path, typer.Option(metavar="FILE", help="File for the documents that are set aside.")],
    share: Annotated[float | None, typer.Option(help="Share that is set aside \\[default: 0.05].")] = None,
    seed: steps.Seed = None,
    workers: steps.Workers = None,
    rejects: steps.Rejects = None,
    text_key: steps.TextKey = None,
    on_error: steps.OnError = None,
    max_errors: steps.MaxErrors = None,
    as_json: console.JSON = False,
) -> None:
    """Set documents aside to measure on. A document's text and the seed decide, so the order does not matter.

    Example: [cyan]mcc data holdout dedup.jsonl -o pool.jsonl --held-out heldout.jsonl --share 0.05[/]
    """
    from mcc.data.holdout import HoldOutConfig, hold_out

    values = steps.given(share=share, seed=seed, workers=workers)
    values["read"] = steps.read((text_key,) if text_key else None, on_error, max_errors)
    report = hold_out(inputs, output, held_out, build(HoldOutConfig, values), console.reporter(), rejects)
    steps.show(report, as_json, ("documents out", report.documents_out), ("held out", report.held_out))


@app.command()
def ids(
    inputs: steps.Inputs,
    output: steps.Output,
    id_key: Annotated[str | None, typer.Option(help="Key that receives the id \\[default: id].")] = None,
    id_prefix: Annotated[str | None, typer.Option(help="What every id begins with, before a dash.")] = None,
    width: Annotated[int | None, typer.Option(help="Digits of the number \\[default: 10].")] = None,
    workers: steps.Workers = None,
    rejects: steps.Rejects = None,
    text_key: steps.TextKey = None,
    on_error: steps.OnError = None,
    max_errors: steps.MaxErrors = None,
    as_json: console.JSON = False,
) -> None:
    """Give every document an id: a prefix and its number, from 1, in the order of the inputs.

    Example: [cyan]mcc data ids train.jsonl -o named.jsonl --id-prefix wiki[/] gives wiki-0000000001, ...
    """
    from mcc.data.ids import IdsConfig
    from mcc.data.ids import ids as number

    values = steps.given(key=id_key, prefix=id_prefix, width=width, workers=workers)
    values["read"] = steps.read((text_key,) if text_key else None, on_error, max_errors)
    report = number(inputs, output, build(IdsConfig, values), console.reporter(), rejects)
    rows: list[tuple[str, object]] = [("documents out", report.documents_out)]
    if report.replaced:
        rows.append(("ids replaced", report.replaced))
    steps.show(report, as_json, *rows)


@app.command()
def concat(
    inputs: steps.Inputs,
    output: steps.Output,
    key: Annotated[
        list[str] | None, typer.Option(metavar="OLD=NEW", help="Rename a key on the way; may be repeated.")
    ] = None,
    workers: steps.Workers = None,
    rejects: steps.Rejects = None,
    text_key: steps.TextKey = None,
    on_error: steps.OnError = None,
    max_errors: steps.MaxErrors = None,
    as_json: console.JSON = False,
) -> None:
    """Make one file of many, of whatever formats, in their order; every line is checked.

    Example: [cyan]mcc data concat 'part-*.jsonl.gz' more.parquet -o all.jsonl.zst --key content=text[/]
    """
    from mcc.data.concat import ConcatConfig
    from mcc.data.concat import concat as join

    values: dict[str, object] = steps.given(workers=workers)
    values["keys"] = tuple(key or ())
    values["read"] = steps.read((text_key,) if text_key else None, on_error, max_errors)
    report = join(inputs, output, build(ConcatConfig, values), console.reporter(), rejects)
    steps.show(report, as_json, *steps.kept(report))


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
