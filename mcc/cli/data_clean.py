"""The commands of `mcc data` that choose documents by what they are: filters in order, lists of URLs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mcc.cli import console
from mcc.cli import data_steps as steps
from mcc.core.config import build
from mcc.core.errors import UsageError

app = typer.Typer(rich_markup_mode="rich")


@app.command()
def clean(
    inputs: steps.Inputs,
    output: steps.Output,
    filters: Annotated[
        list[str] | None,
        typer.Option(metavar="A,B", help="Filters in order, instead of a preset's."),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Filters with their options: openwebtext, gopher, c4, ..., or your FILE.toml."
        ),
    ] = None,
    lang: Annotated[str | None, typer.Option(help="Language to keep (filter language) \\[default: en].")] = None,
    min_chars: Annotated[int | None, typer.Option(help="Least characters (filter min-chars) \\[default: 512].")] = None,
    min_tokens: Annotated[int | None, typer.Option(help="Least tokens (filter min-tokens) \\[default: 128].")] = None,
    tokenizer: Annotated[
        str | None, typer.Option(metavar="PATH", help="Tokenizer that counts (filter min-tokens); default: words.")
    ] = None,
    vocab_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="GPT-2's vocab.json that counts (filter min-tokens).")
    ] = None,
    merge_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="GPT-2's merges.txt, with --vocab-file.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="FILTER.OPTION=VALUE", help="Any option of a filter.")
    ] = None,
    rejects: steps.Rejects = None,
    workers: steps.Workers = None,
    text_key: steps.TextKey = None,
    on_error: steps.OnError = None,
    max_errors: steps.MaxErrors = None,
    as_json: console.JSON = False,
) -> None:
    """Keep good documents: filters in order, each may change a text or reject it with a reason.

    The filters and their options: [cyan]mcc data filters[/]

    Example: [cyan]mcc data clean pages.jsonl -o clean.jsonl --lang en --min-chars 512[/]

    Example: [cyan]mcc data clean 'part-*.jsonl' -o clean.jsonl.gz --filters ftfy,min-tokens --min-tokens 50[/]

    Example: [cyan]mcc data clean owt.jsonl -o clean.jsonl --preset openwebtext --tokenizer gpt2/ --workers 8[/]
    """
    from mcc.data.filtering import CleanConfig, clean

    options = _filter_options(settings or [])
    for name, option, value in (
        ("language", "lang", lang),
        ("min-chars", "chars", min_chars),
        ("min-tokens", "tokens", min_tokens),
        ("min-tokens", "tokenizer", tokenizer),
        ("min-tokens", "vocab_file", vocab_file),
        ("min-tokens", "merge_file", merge_file),
    ):
        if value is not None:
            options.setdefault(name, {})[option] = value
    read = steps.read(steps.words([text_key]) if text_key else None, on_error, max_errors)
    values = steps.given(filters=steps.words(filters), preset=preset, options=options, workers=workers, read=read)
    report = clean(inputs, output, build(CleanConfig, values), console.reporter(), rejects=rejects)
    changed = [(f"changed: {name}", count) for name, count in report.changed.items()]
    steps.show(report, as_json, *steps.kept(report), *changed)


def _filter_options(settings: list[str]) -> dict[str, dict[str, Any]]:
    options: dict[str, dict[str, Any]] = {}
    for setting in settings:
        path, equals, value = setting.partition("=")
        name, dot, option = path.partition(".")
        if not (equals and dot and name and option):
            raise UsageError(f"--set {setting!r} is not FILTER.OPTION=VALUE", "for example --set min-chars.chars=256")
        options.setdefault(name.replace("_", "-"), {})[option.replace("-", "_")] = value
    return options


@app.command()
def filters(as_json: console.JSON = False) -> None:
    """List the filters that [cyan]mcc data clean[/] knows, with their options, and the presets.

    Example: [cyan]mcc data filters --json[/]
    """
    from mcc.core.config import settings
    from mcc.data.filtering import FILTERS
    from mcc.data.presets import presets

    rows: list[dict[str, Any]] = []
    for name, cls in FILTERS.all():
        options = {
            setting.name: {"default": setting.default, "help": setting.help} for setting in settings(cls.Options)
        }
        rows.append({"kind": "filter", "name": name, "what": FILTERS.describe(name), "options": options})
    named = [
        {"kind": "preset", "name": name, "what": preset.what, "filters": preset.filters}
        for name, preset in presets().items()
    ]
    if as_json:
        console.print_json([*rows, *named])
        return
    shown = []
    for row in rows:
        shown.append((row["name"], row["what"], ""))
        for option, about in row["options"].items():
            shown.append((f"  {option}", about["help"], repr(about["default"])))
    console.table("filters", ["filter", "what it does", "default"], shown)
    console.table(
        "presets",
        ["preset", "what it does", "filters"],
        [(row["name"], row["what"], ",".join(row["filters"])) for row in named],
    )


@app.command()
def urls(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="IN...", help="Text files with a URL a line, folders of them, or JSONL.", show_default=False
        ),
    ],
    output: steps.Output,
    key: Annotated[str | None, typer.Option(help="Key of the URL in records \\[default: url].")] = None,
    domain: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Refuse this name or host too; may be repeated.")
    ] = None,
    domains: Annotated[list[Path] | None, typer.Option(metavar="FILE", help="Refuse the names in a file.")] = None,
    extension: Annotated[
        list[str] | None, typer.Option(metavar=".EXT", help="Refuse this ending too; may be repeated.")
    ] = None,
    extensions: Annotated[list[Path] | None, typer.Option(metavar="FILE", help="Refuse the endings in a file.")] = None,
    pattern: Annotated[
        list[str] | None, typer.Option(metavar="REGEX", help="Refuse URLs with a match; may be repeated.")
    ] = None,
    patterns: Annotated[list[Path] | None, typer.Option(metavar="FILE", help="Patterns in a file.")] = None,
    lists: Annotated[bool | None, typer.Option("--lists/--no-lists", help="Use mcc's own lists too.")] = None,
    min_chars: Annotated[int | None, typer.Option(help="Refuse shorter URLs \\[default: 9].")] = None,
    malformed: Annotated[
        bool | None, typer.Option("--malformed/--allow-malformed", help="Refuse what is no http(s) URL.")
    ] = None,
    duplicates: Annotated[
        bool | None, typer.Option("--duplicates/--allow-duplicates", help="Refuse a URL that stood there before.")
    ] = None,
    rejects: steps.Rejects = None,
    workers: steps.Workers = None,
    on_error: steps.OnError = None,
    max_errors: steps.MaxErrors = None,
    as_json: console.JSON = False,
) -> None:
    """Keep URLs worth fetching: not of listed domains or endings, well-formed, each once.

    Example: [cyan]mcc data urls urls/ -o urls.txt[/]

    Example: [cyan]mcc data urls crawl.jsonl.gz -o kept.jsonl --key url --domain example.org --pattern '/tag/'[/]
    """
    from mcc.data.urls import UrlsConfig, urls

    values = steps.given(
        key=key,
        domains=steps.words(domain),
        domain_files=_names(domains),
        extensions=steps.words(extension),
        extension_files=_names(extensions),
        patterns=tuple(pattern) if pattern else None,
        pattern_files=_names(patterns),
        lists=lists,
        min_chars=min_chars,
        malformed=malformed,
        duplicates=duplicates,
        workers=workers,
        read=steps.read((key or "url",), on_error, max_errors),
    )
    report = urls(inputs, output, build(UrlsConfig, values), console.reporter(), rejects=rejects)
    steps.show(report, as_json, ("URLs out", report.documents_out))


def _names(paths: list[Path] | None) -> tuple[str, ...] | None:
    return tuple(map(str, paths)) if paths else None
