"""The commands of `mcc data` that bring text in: MediaWiki dumps."""

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
    dumps: Annotated[list[Path], typer.Argument(metavar="DUMP...", help="pages-articles: .xml, .xml.bz2, .xml.gz.")],
    output: steps.Output,
    lists: Annotated[bool | None, typer.Option("--lists/--no-lists", help="Keep list items \\[default: yes].")] = None,
    headings: Annotated[
        str | None, typer.Option(metavar="keep|drop", help="Section headings \\[default: keep].")
    ] = None,
    min_chars: Annotated[int | None, typer.Option(help="Drop shorter articles \\[default: 1].")] = None,
    as_json: console.JSON = False,
) -> None:
    """Turn MediaWiki dumps into documents: {id, url, title, text}, articles only, no markup.

    Example: [cyan]mcc data wiki enwiki-latest-pages-articles.xml.bz2 -o pages.jsonl[/]
    """
    from mcc.data.wiki import WikiConfig, wiki

    config = build(WikiConfig, steps.given(text=steps.given(lists=lists, headings=headings), min_chars=min_chars))
    report = wiki(dumps, output, config, console.reporter())
    steps.show(report, as_json, ("pages", report.pages), ("redirects", report.redirects), *steps.kept(report))
