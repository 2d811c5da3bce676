"""The commands of `mcc data` about duplicates: `dedup`, and its steps `dedup find | group | remove`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from mcc.cli import console
from mcc.cli import data_steps as steps
from mcc.core.config import build
from mcc.core.errors import UsageError

# The command that runs when the first word is none of the steps.
_DOCUMENTS = "documents"


class _Group(TyperGroup):
    """`dedup IN... -o OUT` beside `dedup find ...`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or args[0] not in self.commands:
            args = [_DOCUMENTS, *args]
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return ("" if name == _DOCUMENTS else name), command, rest


app = typer.Typer(rich_markup_mode="rich")
dedup_app = typer.Typer(cls=_Group, rich_markup_mode="rich", help="Remove near-duplicates, at once or in three steps.")
app.add_typer(dedup_app, name="dedup")

_SEARCH, _PRINTS = "Search", "Fingerprints"

Keys = Annotated[
    list[str] | None,
    typer.Option(
        "--key",
        metavar="KEY",
        help="Key that names a document: one for all inputs, or one for each, in order "
        "\\[default: id, url or FILE:LINE].",
    ),
]
ShingleChars = Annotated[
    int | None, typer.Option(help="Characters of a shingle \\[default: 5].", rich_help_panel=_SEARCH)
]
NumPerm = Annotated[
    int | None, typer.Option(help="Values of a sketch, at most \\[default: 256].", rich_help_panel=_SEARCH)
]
Bands = Annotated[int | None, typer.Option(help="Bands \\[default: datasketch's choice].", rich_help_panel=_SEARCH)]
Rows = Annotated[
    int | None, typer.Option(help="Values of a band \\[default: datasketch's choice].", rich_help_panel=_SEARCH)
]
Engine = Annotated[
    str | None,
    typer.Option(metavar="fast|datasketch", help="What makes the sketches \\[default: fast].", rich_help_panel=_SEARCH),
]
Save = Annotated[
    Path | None,
    typer.Option(
        "--save-fingerprints",
        metavar="FILE",
        help="Save the fingerprints of the documents that stay, with their texts.",
        rich_help_panel=_PRINTS,
    ),
]
Load = Annotated[
    list[Path] | None,
    typer.Option(
        "--load-fingerprints",
        metavar="FILE",
        help="Documents of earlier runs, which count as earlier; may be repeated.",
        rich_help_panel=_PRINTS,
    ),
]


@dedup_app.command(_DOCUMENTS, hidden=True)
def dedup(
    inputs: steps.Inputs,
    output: steps.Output,
    threshold: Annotated[float | None, typer.Option(help="Least Jaccard index of duplicates \\[default: 0.8].")] = None,
    duplicates: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write {removed, kept, similarity}, a line a document.")
    ] = None,
    key: Keys = None,
    keep: Annotated[
        str | None, typer.Option(metavar="first|longest|best", help="Which one stays \\[default: first].")
    ] = None,
    by: Annotated[str | None, typer.Option(metavar="KEY", help="Key of the number that best goes by.")] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Only equal texts are duplicates.")] = False,
    normalize: Annotated[
        str | None,
        typer.Option(
            metavar="none|whitespace|letters", help="What is equal, with --exact: spaces do not count, or only letters."
        ),
    ] = None,
    shingle_chars: ShingleChars = None,
    num_perm: NumPerm = None,
    bands: Bands = None,
    rows: Rows = None,
    engine: Engine = None,
    save: Save = None,
    load: Load = None,
    workers: steps.Workers = None,
    rejects: steps.Rejects = None,
    text_key: steps.TextKey = None,
    on_error: steps.OnError = None,
    max_errors: steps.MaxErrors = None,
    as_json: console.JSON = False,
) -> None:
    """Remove near-duplicates: MinHash-LSH finds candidates, the exact Jaccard index decides, one of them stays.

    In three steps with the files of the OpenWebText scripts: [cyan]mcc data dedup find|group|remove --help[/]

    Example: [cyan]mcc data dedup clean.jsonl -o unique.jsonl --threshold 0.8 --duplicates removed.jsonl[/]

    Example: [cyan]mcc data dedup cc.jsonl news.jsonl -o unique.jsonl --key cc_id --key url --keep longest[/]

    Example: [cyan]mcc data dedup june.jsonl -o june-new.jsonl --load-fingerprints may.prints --workers 4[/]

    Example: [cyan]mcc data dedup pages.jsonl -o unique.jsonl --exact --normalize whitespace[/]
    """
    from mcc.data.dedup import DedupConfig, Sides, dedup

    values = _values(threshold, shingle_chars, num_perm, bands, rows, engine, key, workers)
    values |= steps.given(keep=keep, by=by, exact=exact or None, normalize=normalize)
    values["read"] = steps.read((text_key,) if text_key else None, on_error, max_errors)
    sides = Sides(duplicates=duplicates, rejects=rejects, save=save, load=tuple(load or ()))
    report = dedup(inputs, output, build(DedupConfig, values), console.reporter(), sides=sides)
    shown = [("removed", report.removed), ("of these equal", report.copies)]
    if report.bands:
        shown.append((f"compared ({report.bands} bands of {report.rows})", report.candidates))
    steps.show(report, as_json, *steps.kept(report), *shown)


def _values(
    threshold: float | None,
    shingle_chars: int | None,
    num_perm: int | None,
    bands: int | None,
    rows: int | None,
    engine: str | None,
    key: list[str] | None,
    workers: int | None,
) -> dict[str, Any]:
    return steps.given(
        threshold=threshold,
        shingle_chars=shingle_chars,
        num_perm=num_perm,
        bands=bands,
        rows=rows,
        engine=engine,
        key=tuple(key) if key else None,
        workers=workers,
    )


@dedup_app.command()
def find(
    inputs: steps.Inputs,
    output: steps.Output,
    threshold: Annotated[float, typer.Option(help="Least Jaccard index of a pair.")] = 0.5,
    key: Keys = None,
    heuristic_iter: Annotated[
        int, typer.Option(help="Documents of a bucket that the others are compared with, at most; -1: all.")
    ] = 1,
    num_bands: Annotated[
        int | None, typer.Option(help="The scripts' name of --bands, with --num-seeds.", rich_help_panel=_SEARCH)
    ] = None,
    num_seeds: Annotated[
        int | None, typer.Option(help="Bands times rows, as in the scripts.", rich_help_panel=_SEARCH)
    ] = None,
    shingle_chars: ShingleChars = None,
    num_perm: NumPerm = None,
    bands: Bands = None,
    rows: Rows = None,
    engine: Engine = None,
    save: Save = None,
    load: Load = None,
    workers: steps.Workers = None,
    rejects: steps.Rejects = None,
    text_key: steps.TextKey = None,
    on_error: steps.OnError = None,
    max_errors: steps.MaxErrors = None,
    as_json: console.JSON = False,
) -> None:
    """Step 1: write similar pairs as find_duplicates does: a line {main: \\[{other: similarity}, ...]} a document.

    Example: [cyan]mcc data dedup find cc.jsonl news.jsonl -o pairs.jsonl --key cc_id --key url[/]
    """
    from mcc.data.dedup import DedupConfig, Sides
    from mcc.data.dedup_steps.find import find_duplicates

    if (num_bands is None) != (num_seeds is None):
        raise UsageError("--num-bands and --num-seeds are given together or not at all")
    if num_bands is not None and num_seeds is not None:
        if num_bands < 1 or num_seeds % num_bands or bands is not None:
            raise UsageError(
                f"--num-seeds {num_seeds} is no multiple of --num-bands {num_bands}, or --bands is given too",
                "for example --num-bands 10 --num-seeds 100",
            )
        bands, rows = num_bands, num_seeds // num_bands
    values = _values(threshold, shingle_chars, num_perm, bands, rows, engine, key, workers)
    values["read"] = steps.read((text_key,) if text_key else None, on_error, max_errors)
    sides = Sides(rejects=rejects, save=save, load=tuple(load or ()))
    config = build(DedupConfig, values)
    report = find_duplicates(inputs, output, config, console.reporter(), mains=heuristic_iter, sides=sides)
    compared = (f"compared ({report.bands} bands of {report.rows})", report.candidates)
    steps.show(report, as_json, ("pairs", report.pairs), ("of these equal", report.copies), compared)


@dedup_app.command()
def group(
    pairs: Annotated[Path, typer.Argument(metavar="PAIRS", help="What find wrote.", show_default=False)],
    output: steps.Output,
    threshold: Annotated[float, typer.Option(help="Least similarity of a pair.")] = 0.7,
    as_json: console.JSON = False,
) -> None:
    """Step 2: join pairs to groups as group_duplicate_url does: a line {"i": \\[name, ...]} a group.

    Example: [cyan]mcc data dedup group pairs.jsonl -o groups.jsonl --threshold 0.8[/]
    """
    from mcc.data.dedup_steps.group import group_duplicates

    report = group_duplicates(pairs, output, threshold, console.reporter())
    steps.show(report, as_json, ("groups", report.groups), ("to remove", report.duplicates))


@dedup_app.command()
def remove(
    groups: Annotated[Path, typer.Argument(metavar="GROUPS", help="What group wrote.", show_default=False)],
    inputs: steps.Inputs,
    output: steps.Output,
    key: Annotated[str | None, typer.Option(help="Key that names a document \\[default: url].")] = None,
    workers: steps.Workers = None,
    rejects: steps.Rejects = None,
    text_key: steps.TextKey = None,
    on_error: steps.OnError = None,
    max_errors: steps.MaxErrors = None,
    as_json: console.JSON = False,
) -> None:
    """Step 3: keep the first of each group as remove_group_duplicates does, and all that are in none.

    Example: [cyan]mcc data dedup remove groups.jsonl clean.jsonl -o unique.jsonl --key url[/]
    """
    from mcc.data.dedup_steps.remove import RemoveConfig, remove_duplicates

    values = steps.given(key=key, workers=workers)
    values["read"] = steps.read((text_key,) if text_key else None, on_error, max_errors)
    config = build(RemoveConfig, values)
    report = remove_duplicates(groups, inputs, output, config, console.reporter(), rejects=rejects)
    steps.show(report, as_json, *steps.kept(report), ("removed", report.removed))
