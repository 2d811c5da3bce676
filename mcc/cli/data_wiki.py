"""The commands of `mcc data` that bring text in: MediaWiki dumps, and what can be downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mcc.cli import console
from mcc.cli import data_steps as steps
from mcc.core.config import build

app = typer.Typer(rich_markup_mode="rich")


@app.command()
def wiki(
    dumps: Annotated[
        list[Path],
        typer.Argument(metavar="DUMP...", help="pages-articles: .xml, also as .bz2, .gz, .zst.", show_default=False),
    ],
    output: steps.Output,
    lists: Annotated[bool | None, typer.Option("--lists/--no-lists", help="Keep list items \\[default: yes].")] = None,
    headings: Annotated[
        str | None, typer.Option(metavar="keep|drop", help="Section headings \\[default: keep].")
    ] = None,
    min_chars: Annotated[int | None, typer.Option(help="Drop shorter articles \\[default: 1].")] = None,
    punctuation: Annotated[
        bool | None, typer.Option("--punctuation", help="Make quotes and dashes ASCII, as the filter does with NLTK.")
    ] = None,
    rejects: steps.Rejects = None,
    workers: steps.Workers = None,
    on_error: steps.OnError = None,
    max_errors: steps.MaxErrors = None,
    as_json: console.JSON = False,
) -> None:
    """Turn MediaWiki dumps into documents: {id, url, title, text}, articles only, no markup.

    Links, lists and headings stay as text; templates, tables, references, files, categories, formulas and comments go.
    [cyan].bz2[/] is decompressed by all [cyan]--workers[/]. Killed and started again, it goes on where it was.

    Example: [cyan]mcc data wiki enwiki-latest-pages-articles.xml.bz2 -o pages.jsonl --workers 8[/]

    Example: [cyan]mcc data wiki 'dewiki-*.xml-p*.bz2' -o pages.jsonl.zst --no-lists --headings drop[/]
    """
    from mcc.data.wiki import WikiConfig, wiki

    text = steps.given(lists=lists, headings=headings)
    read = steps.read(None, on_error, max_errors)
    values = steps.given(text=text, min_chars=min_chars, punctuation=punctuation, workers=workers, read=read)
    report = wiki(dumps, output, build(WikiConfig, values), console.reporter(), rejects=rejects)
    steps.show(report, as_json, ("pages", report.pages), ("redirects", report.redirects), *steps.kept(report))
