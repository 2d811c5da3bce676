"""`mcc data`: from raw text to token files, a command a step. Each streams, and each has a function of its name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mcc.cli import console, data_tokens
from mcc.cli import data_steps as steps
from mcc.core.config import build
from mcc.core.errors import UsageError

app = typer.Typer(
    name="data",
    help="From raw text to token files, a step a command. Steps read and write JSON lines with a [cyan]text[/] "
    "(.jsonl, .jsonl.gz, .jsonl.bz2, .jsonl.zst) and read plain .txt; other keys are kept. Patterns in quotes "
    "('part-*.jsonl') are expanded in order.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


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


@app.command()
def clean(
    inputs: steps.Inputs,
    output: steps.Output,
    filters: Annotated[
        list[str] | None,
        typer.Option(metavar="A,B", help="Filters in order \\[default: ftfy,whitespace,language,min-chars]."),
    ] = None,
    lang: Annotated[str | None, typer.Option(help="Language to keep (filter language) \\[default: en].")] = None,
    min_chars: Annotated[int | None, typer.Option(help="Least characters (filter min-chars) \\[default: 512].")] = None,
    min_tokens: Annotated[int | None, typer.Option(help="Least tokens (filter min-tokens) \\[default: 128].")] = None,
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
    """
    from mcc.data.filtering import CleanConfig, clean

    options = _filter_options(settings or [])
    for name, option, value in (
        ("language", "lang", lang),
        ("min-chars", "chars", min_chars),
        ("min-tokens", "tokens", min_tokens),
    ):
        if value is not None:
            options.setdefault(name, {})[option] = value
    read = steps.read(steps.words([text_key]) if text_key else None, on_error, max_errors)
    values = steps.given(filters=steps.words(filters), options=options, workers=workers, read=read)
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
    """List the filters that [cyan]mcc data clean[/] knows, with their options.

    Example: [cyan]mcc data filters --json[/]
    """
    from mcc.core.config import settings
    from mcc.data.filtering import FILTERS

    rows: list[dict[str, Any]] = []
    for name, cls in FILTERS.all():
        options = {
            setting.name: {"default": setting.default, "help": setting.help} for setting in settings(cls.Options)
        }
        rows.append({"name": name, "what": FILTERS.describe(name), "options": options})
    if as_json:
        console.print_json(rows)
        return
    shown = []
    for row in rows:
        shown.append((row["name"], row["what"], ""))
        for option, about in row["options"].items():
            shown.append((f"  {option}", about["help"], repr(about["default"])))
    console.table("filters", ["filter", "what it does", "default"], shown)


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


@app.command()
def decontaminate(
    inputs: steps.Inputs,
    output: steps.Output,
    task: Annotated[
        list[str], typer.Option(metavar="NAME", help="Task: lambada, squad, ..., or jsonl; may be repeated.")
    ],
    task_file: Annotated[list[Path], typer.Option(metavar="FILE", help="The task's JSON lines, one for each --task.")],
    task_key: Annotated[
        str | None, typer.Option(help="Key of the text in the task files \\[default: the task's].")
    ] = None,
    max_ngram: Annotated[int | None, typer.Option(help="Words of an n-gram \\[default: 13].")] = None,
    min_ngram: Annotated[int | None, typer.Option(help="Words of the shortest task text \\[default: 8].")] = None,
    key_threshold: Annotated[
        int | None, typer.Option(help="Leave n-grams alone that so many documents hold \\[default: 10].")
    ] = None,
    remove_chars_each_side: Annotated[int | None, typer.Option(help="Cut so far around one \\[default: 200].")] = None,
    min_piece_chars: Annotated[
        int | None, typer.Option(help="Drop pieces not longer than this \\[default: 200].")
    ] = None,
    max_pieces: Annotated[int | None, typer.Option(help="Drop documents in more pieces \\[default: 10].")] = None,
    text_key: steps.TextKey = None,
    on_error: steps.OnError = None,
    max_errors: steps.MaxErrors = None,
    as_json: console.JSON = False,
) -> None:
    """Cut the passages of evaluation tasks out of documents, by GPT-3's 13-gram rule as Megatron-LM applies it.

    Example: [cyan]mcc data decontaminate unique.jsonl -o train.jsonl --task lambada --task-file lambada_test.jsonl[/]
    """
    from mcc.data.decontaminate import DecontaminateConfig, decontaminate

    if len(task) != len(task_file):
        raise UsageError(f"{len(task)} --task but {len(task_file)} --task-file", "give one file for each task")
    values = steps.given(
        max_ngram=max_ngram,
        min_ngram=min_ngram,
        key_threshold=key_threshold,
        remove_chars_each_side=remove_chars_each_side,
        min_piece_chars=min_piece_chars,
        max_pieces=max_pieces,
    )
    values["tasks"] = [
        steps.given(name=name, path=str(path), key=task_key) for name, path in zip(task, task_file, strict=True)
    ]
    values["read"] = steps.read((text_key,) if text_key else None, on_error, max_errors)
    report = decontaminate(inputs, output, build(DecontaminateConfig, values), console.reporter())
    rows = [(f"n-grams: {name}", count) for name, count in report.ngrams.items()]
    rows += [("n-grams left alone", report.common), ("records out", report.documents_out)]
    rows += [(f"cut out: {name}", count) for name, count in report.matched.items()]
    rows += [("trimmed", report.trimmed), ("split", report.split), ("dropped", report.dropped)]
    steps.show(report, as_json, *rows)


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


app.add_typer(data_tokens.app)
