"""The commands of `mcc data` that bring text in: MediaWiki dumps, and what can be downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mcc.cli import console
from mcc.cli import data_steps as steps
from mcc.core.config import build
from mcc.core.errors import UsageError

if TYPE_CHECKING:
    from mcc.data.fetch.catalogue import Entry

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


@app.command()
def get(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME...", help="See --list; glue is all its tasks.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="DIR", help="Where to \\[default: a folder of that name].")
    ] = None,
    lang: Annotated[str, typer.Option(help="Language of the Wikipedia (wiki).")] = "en",
    date: Annotated[str, typer.Option(metavar="YYYYMMDD", help="Date of the dump (wiki).")] = "latest",
    show: Annotated[bool, typer.Option("--list", help="Show what there is to get.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be fetched from where.")] = False,
    as_json: console.JSON = False,
) -> None:
    """Download data sets and vocabularies, checked and unpacked.

    A broken download goes on where it ended. Files that are there already are checked, not fetched again; so where
    there is no network, files brought by hand do as well: the error says which and where to.

    Example: [cyan]mcc data get --list[/]

    Example: [cyan]mcc data get gpt2-vocab lambada[/]

    Example: [cyan]mcc data get wiki --lang de -o dumps[/]
    """
    from mcc.data.fetch.catalogue import expand, find
    from mcc.data.fetch.download import Unreachable
    from mcc.data.get import get, manual_steps

    if show:
        _show_catalogue(as_json)
        return
    if not names:
        raise UsageError("no name given", "mcc data get --list shows what there is")
    wanted = expand(names)
    if "wiki" not in wanted and (lang, date) != ("en", "latest"):
        raise UsageError("--lang and --date are of wiki", "leave them out")
    folders = {name: (folder / name if len(wanted) > 1 else folder) if folder else Path(name) for name in wanted}
    if dry_run:
        _show_plan({name: (find(name, lang, date), folders[name]) for name in wanted}, as_json)
        return
    reports = []
    for name in wanted:
        try:
            reports.append(get(name, folders[name], lang=lang, date=date, reporter=console.reporter()))
        except Unreachable:
            typer.echo("\n".join(manual_steps(find(name, lang, date), folders[name])), err=True)
            raise
    if as_json:
        console.print_json(reports if len(reports) > 1 else reports[0])
        return
    for report in reports:
        rows = [(file.state, f"{file.path} ({file.size:,} bytes)") for file in report.files]
        rows += [("checked", file.checksum or "there is no checksum") for file in report.files]
        if report.unpacked:
            rows.append(("unpacked", f"{len(report.unpacked):,} files"))
        console.table(report.name, ["", ""], [*rows, ("licence", report.licence), ("next", report.next)])


def _show_catalogue(as_json: bool) -> None:
    from mcc.data.fetch.catalogue import CATALOGUE, find

    entries = [find(name) for name in CATALOGUE]
    if as_json:
        console.print_json(entries)
        return
    rows = []
    for entry in entries:
        sizes = [item.size for item in entry.items]
        size = f"{sum(filter(None, sizes)) / 1e6:,.1f} MB" if all(sizes) else "not known"
        checksums = {_checksum(item.checksum, item.sums) for item in entry.items}
        rows.append((entry.name, entry.about, size, ", ".join(sorted(checksums)), entry.licence))
    console.table("data sets", ["name", "what", "size", "checksum", "licence"], rows)


def _checksum(checksum: str | None, sums: str | None) -> str:
    if checksum:
        return checksum.partition(":")[0]
    return "from the publisher" if sums else "none"


def _show_plan(plan: dict[str, tuple[Entry, Path]], as_json: bool) -> None:
    files = [(name, folder / item.name, item) for name, (entry, folder) in plan.items() for item in entry.items]
    if as_json:
        console.print_json([{"entry": name, "path": path, **vars(item)} for name, path, item in files])
        return
    for name, path, item in files:
        rows = [("from", url) for url in item.urls]
        rows += [("to", str(path)), ("size", "not known" if item.size is None else f"{item.size:,} bytes")]
        rows += [("checksum", item.checksum or item.sums or "none"), ("unpack", "yes" if item.unpack else "no")]
        console.table(name, ["", ""], rows)
