"""The commands of `mcc data` about duplicates."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mcc.cli import console
from mcc.cli import data_steps as steps
from mcc.core.config import build

app = typer.Typer(rich_markup_mode="rich")


@app.command()
def dedup(
    inputs: steps.Inputs,
    output: steps.Output,
    threshold: Annotated[float | None, typer.Option(help="Least Jaccard index of duplicates \\[default: 0.8].")] = None,
    duplicates: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write {removed, kept, similarity}, a line a document.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="Key that names a document there \\[default: id, url or FILE:LINE].")
    ] = None,
    shingle_chars: Annotated[int | None, typer.Option(help="Characters of a shingle \\[default: 5].")] = None,
    num_perm: Annotated[int | None, typer.Option(help="Values of a signature, at most \\[default: 128].")] = None,
    bands: Annotated[int | None, typer.Option(help="Bands \\[default: datasketch's choice].")] = None,
    rows: Annotated[int | None, typer.Option(help="Values of a band \\[default: datasketch's choice].")] = None,
    text_key: steps.TextKey = None,
    on_error: steps.OnError = None,
    max_errors: steps.MaxErrors = None,
    as_json: console.JSON = False,
) -> None:
    """Remove near-duplicates: MinHash-LSH finds candidates, the exact Jaccard index decides, the first one stays.

    Example: [cyan]mcc data dedup clean.jsonl -o unique.jsonl --threshold 0.8 --duplicates removed.jsonl[/]
    """
    from mcc.data.dedup import DedupConfig, dedup

    values = steps.given(
        threshold=threshold, shingle_chars=shingle_chars, num_perm=num_perm, bands=bands, rows=rows, key=key
    )
    values["read"] = steps.read((text_key,) if text_key else None, on_error, max_errors)
    report = dedup(inputs, output, build(DedupConfig, values), console.reporter(), duplicates=duplicates)
    compared = (f"compared ({report.bands} bands of {report.rows})", report.candidates)
    steps.show(report, as_json, *steps.kept(report), ("removed", report.removed), compared)
